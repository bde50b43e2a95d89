"""Rules for a step's attempts: how many there may be, and what they left."""

from typing import Any

from sqlalchemy import and_, case, false, func, or_, select

from db.invariants.rule import OPEN, Query, Rule, history_removed
from db.models import Event, ScoreRun, ScoreStep, StageRun, Step
from db.moves import LeasedTable
from pipeline.policy.retry import MAX_LOSSES, MAX_OTHER, MAX_RETRYABLE
from pipeline.states import AttemptOutcome, StepState

_COMMITTED = (
    *(AttemptOutcome.DONE, AttemptOutcome.SKIPPED),
    *(AttemptOutcome.HELD, AttemptOutcome.BLOCKED, AttemptOutcome.REJECTED),
)


def _subject(table: LeasedTable) -> list[Any]:
    """Whose the step is, and which it is."""
    if table is Step:
        return [Step.job_id, Step.stage.label("stage"), Step.state.label("state")]
    return [table.batch_id, table.id.label("step"), table.state.label("state")]


def _bounds(table: LeasedTable) -> Query:
    """I9: what went wrong with a step is bounded, and a step whose tries are used up is not tried again."""
    open_ = table.state.in_((*OPEN, StepState.PENDING))
    bounds = (
        (table.errors, MAX_RETRYABLE),
        (table.crashes, MAX_OTHER),
        (table.faults, MAX_OTHER),
        (table.losses, MAX_LOSSES),
    )
    beyond = or_(*(counter > bound for counter, bound in bounds))
    used_up = or_(*(counter >= bound for counter, bound in bounds))
    counts = [counter.label(counter.key) for counter, _ in bounds]
    return select(*_subject(table), *counts).where(or_(beyond, and_(open_, used_up)))


def _attempts(table: LeasedTable, runs: type[StageRun] | type[ScoreRun]) -> Query:
    """Every attempt that ended has its row, numbered without a gap; the one that is running has none yet."""
    ended = table.attempt - case((table.state == StepState.RUNNING, 1), else_=0)
    rows, first, last = func.count(runs.id), func.min(runs.attempt), func.max(runs.attempt)
    # What was tried before migration 0008 has no rows in score_runs.
    beginning = first != 1 if table is Step else false()
    missing = rows != ended if table is Step else and_(rows > 0, rows != last - first + 1)
    return (
        select(*_subject(table), table.attempt.label("attempt"), rows.label("rows"))
        .join(runs, runs.step_id == table.id, isouter=True)
        .group_by(table.id)
        .having(or_(missing, and_(rows > 0, or_(beginning, last != ended))))
        .where(~history_removed(table.batch_id))
    )


def _last_outcome(table: LeasedTable, runs: type[StageRun] | type[ScoreRun]) -> Query:
    """A step's end is its last attempt's outcome."""
    fits = case(
        {
            StepState.DONE.value: runs.outcome.in_(
                (AttemptOutcome.DONE, AttemptOutcome.HELD, AttemptOutcome.BLOCKED, AttemptOutcome.REJECTED)
            ),
            StepState.SKIPPED.value: runs.outcome == AttemptOutcome.SKIPPED,
            StepState.FAILED.value: runs.outcome.in_(
                (AttemptOutcome.FAILED, AttemptOutcome.LEASE_ENDED, AttemptOutcome.REJECTED)
            ),
        },
        value=table.state,
    )
    return (
        select(*_subject(table), runs.outcome.label("outcome"))
        .join(runs, and_(runs.step_id == table.id, runs.attempt == table.attempt))
        .where(table.state.in_((StepState.DONE, StepState.SKIPPED, StepState.FAILED)), ~fits)
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
    Rule("bounds", "errors, crashes, faults and losses of a step are bounded", _bounds(Step)),
    Rule("score_bounds", "errors, crashes, faults and losses of a score step are bounded", _bounds(ScoreStep)),
    Rule("attempts", "a step's attempts are rows numbered from 1 without a gap", _attempts(Step, StageRun)),
    Rule("score_attempts", "a score step's attempts are rows numbered without a gap", _attempts(ScoreStep, ScoreRun)),
    Rule("outcome", "a step ended as its last attempt did", _last_outcome(Step, StageRun)),
    Rule("score_outcome", "a score step ended as its last attempt did", _last_outcome(ScoreStep, ScoreRun)),
    Rule("commits", "a step commits once, and once more for each rewind", _committed_once()),
)
