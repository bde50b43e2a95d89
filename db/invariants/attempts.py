"""Rules for a step's attempts: how many there may be, and what they left."""

from sqlalchemy import and_, case, func, or_, select

from db.invariants.rule import OPEN, Query, Rule, history_removed
from db.models import Event, StageRun, Step
from pipeline.policy.retry import MAX_LOSSES, MAX_OTHER, MAX_RETRYABLE
from pipeline.states import AttemptOutcome, StepState

_COMMITTED = (
    *(AttemptOutcome.DONE, AttemptOutcome.SKIPPED),
    *(AttemptOutcome.HELD, AttemptOutcome.BLOCKED, AttemptOutcome.REJECTED),
)


def _bounds() -> Query:
    """I9: what went wrong with a step is bounded, and a step whose tries are used up is not tried again."""
    open_ = Step.state.in_((*OPEN, StepState.PENDING))
    bounds = (
        (Step.errors, MAX_RETRYABLE),
        (Step.crashes, MAX_OTHER),
        (Step.faults, MAX_OTHER),
        (Step.losses, MAX_LOSSES),
    )
    beyond = or_(*(counter > bound for counter, bound in bounds))
    used_up = or_(*(counter >= bound for counter, bound in bounds))
    return select(
        Step.job_id,
        Step.stage.label("stage"),
        Step.state.label("state"),
        Step.errors.label("errors"),
        Step.crashes.label("crashes"),
        Step.faults.label("faults"),
        Step.losses.label("losses"),
    ).where(or_(beyond, and_(open_, used_up)))


def _attempts() -> Query:
    """Every attempt that ended has its row, numbered without a gap; the one that is running has none yet."""
    ended = Step.attempt - case((Step.state == StepState.RUNNING, 1), else_=0)
    rows, first, last = func.count(StageRun.id), func.min(StageRun.attempt), func.max(StageRun.attempt)
    return (
        select(Step.job_id, Step.stage.label("stage"), Step.attempt.label("attempt"), rows.label("rows"))
        .join(StageRun, StageRun.step_id == Step.id, isouter=True)
        .group_by(Step.id)
        .having(or_(rows != ended, and_(rows > 0, or_(first != 1, last != ended))))
        .where(~history_removed(Step.batch_id))
    )


def _last_outcome() -> Query:
    """A step's end is its last attempt's outcome."""
    fits = case(
        {
            StepState.DONE.value: StageRun.outcome.in_(
                (AttemptOutcome.DONE, AttemptOutcome.HELD, AttemptOutcome.BLOCKED, AttemptOutcome.REJECTED)
            ),
            StepState.SKIPPED.value: StageRun.outcome == AttemptOutcome.SKIPPED,
            StepState.FAILED.value: StageRun.outcome.in_(
                (AttemptOutcome.FAILED, AttemptOutcome.LEASE_ENDED, AttemptOutcome.REJECTED)
            ),
        },
        value=Step.state,
    )
    return (
        select(Step.job_id, Step.stage.label("stage"), Step.state.label("state"), StageRun.outcome.label("outcome"))
        .join(StageRun, and_(StageRun.step_id == Step.id, StageRun.attempt == Step.attempt))
        .where(Step.state.in_((StepState.DONE, StepState.SKIPPED, StepState.FAILED)), ~fits)
    )


def _committed_once() -> Query:
    """I5: a step commits once, and once more for each recorded rewind."""
    rewinds = (
        select(func.count())
        .select_from(Event)
        .where(Event.job_id == Step.job_id, Event.kind == "rewound")
        .scalar_subquery()
    )
    commits = func.count(StageRun.id)
    return (
        select(Step.job_id, Step.stage.label("stage"), commits.label("commits"), rewinds.label("rewinds"))
        .join(StageRun, and_(StageRun.step_id == Step.id, StageRun.outcome.in_(_COMMITTED)))
        .where(~history_removed(Step.batch_id))
        .group_by(Step.id)
        .having(commits > 1 + rewinds)
    )


RULES = (
    Rule("bounds", "errors, crashes, faults and losses of a step are bounded", _bounds()),
    Rule("attempts", "a step's attempts are rows numbered from 1 without a gap", _attempts()),
    Rule("outcome", "a step ended as its last attempt did", _last_outcome()),
    Rule("commits", "a step commits once, and once more for each rewind", _committed_once()),
)
