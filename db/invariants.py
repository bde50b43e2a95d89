"""What must hold for the rows at every instant, as queries that find what breaks it: always nothing, or it is a bug.

Asked by ``vgen doctor`` and after every test that works on rows. Each rule is a SELECT of the rows that break it:
the first column names the batch or job, the others say what is wrong with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from db.events import HISTORY_REMOVED, MEDIA_REMOVED
from db.models import ArtifactRow, Batch, ContinuationState, Event, Job, Score, Segment, StageRun, Step
from db.session import Database
from pipeline.retry import MAX_LOSSES, MAX_OTHER, MAX_RETRYABLE
from pipeline.states import TERMINAL_JOB_STATES, AttemptOutcome, JobState, Stage, StepState

Query = Select[*tuple[Any, ...]]
_LIVE = (StepState.DISPATCHED, StepState.RUNNING)
_OPEN = (StepState.WAITING, *_LIVE)
_ENDED = (StepState.DONE, StepState.SKIPPED, StepState.FAILED, StepState.CANCELLED)
_SUCCESS = (StepState.DONE, StepState.SKIPPED)
_COMMITTED = (
    *(AttemptOutcome.DONE, AttemptOutcome.SKIPPED),
    *(AttemptOutcome.HELD, AttemptOutcome.BLOCKED, AttemptOutcome.REJECTED),
)
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that always holds, and the query for what breaks it."""

    name: str
    says: str
    broken: Query


@dataclass(frozen=True, slots=True)
class Violation:
    """Rows that break a rule."""

    rule: str
    subject: str
    """The batch's or job's id."""
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.subject} ({self.detail})"


def violations(database: Database, *, limit: int = _SHOWN) -> list[Violation]:
    """Everything that breaks a rule, at most ``limit`` for each; all rules look at the same instant.

    Reads every job and step: seconds for a million rows.
    """
    with database.reading() as session:
        if not database.is_sqlite:  # there a transaction sees one state anyway
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        return violations_in(session, limit=limit)


def violations_in(session: Session, *, limit: int = _SHOWN) -> list[Violation]:
    """The same as this transaction sees it."""
    return [
        Violation(rule.name, str(row[0]), _detail(row._mapping, rule.says))
        for rule in RULES
        for row in session.execute(rule.broken.limit(limit))
    ]


def _detail(row: Any, says: str) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in list(row.items())[1:])
    return f"{says}; found {facts}" if facts else says


def _steps(states: Sequence[StepState], stage: Stage | None = None) -> ColumnElement[bool]:
    """Whether the job of the enclosing query has a step of its current roll in one of these states."""
    mine = (Step.job_id == Job.id) & (Step.roll == Job.roll) & Step.state.in_(states)
    return exists().where(mine if stage is None else mine & (Step.stage == stage))


def _event(kind: str) -> ColumnElement[bool]:
    return exists().where(Event.job_id == Job.id, Event.kind == kind)


def _ran(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(StageRun.job_id == Job.id, *conditions)


# Batches


def _sums() -> Query:
    jobs = func.count(Job.id)
    return (
        select(Batch.id, Batch.total.label("total"), jobs.label("jobs"), func.max(Job.seq).label("last"))
        .join(Job, Job.batch_id == Batch.id, isouter=True)
        .group_by(Batch.id, Batch.total)
        .having(or_(jobs != Batch.total, func.min(Job.seq) != 0, func.max(Job.seq) != Batch.total - 1))
    )


def _active() -> Query:
    return (
        select(Batch.id, func.count(Job.id).label("open_jobs"))
        .join(Job, Job.batch_id == Batch.id)
        .where(~Batch.active, Job.state.not_in(TERMINAL_JOB_STATES))
        .group_by(Batch.id)
    )


# Jobs and their steps


def _state_of_steps() -> Query:
    waiting, live = _steps((StepState.WAITING,)), _steps(_LIVE)
    wrong = (
        and_(Job.state.in_((JobState.WAITING, JobState.HELD)), or_(~waiting, live)),
        and_(Job.state == JobState.IN_FLIGHT, ~live),
        and_(Job.state.in_(TERMINAL_JOB_STATES), _steps(_OPEN)),
        # A step that waits for an earlier one stays behind where that one failed; a retry goes on from there.
        and_(Job.state.in_(TERMINAL_JOB_STATES - {JobState.FAILED}), _steps((StepState.PENDING,))),
        and_(Job.state == JobState.FAILED, ~_steps((StepState.FAILED,))),
        and_(Job.state == JobState.SUCCEEDED, _steps((StepState.FAILED, StepState.CANCELLED))),
    )
    return select(Job.id, Job.state.label("state"), waiting.label("waiting"), live.label("live")).where(or_(*wrong))


def _one_open_step() -> Query:
    return (
        select(Step.job_id, Step.segment.label("segment"), func.count().label("open_steps"))
        .where(Step.state.in_(_OPEN))
        .group_by(Step.job_id, Step.segment)
        .having(func.count() > 1)
    )


def _current_roll() -> Query:
    wrong = or_(Step.roll > Job.roll, and_(Step.roll < Job.roll, Step.state.in_((*_OPEN, StepState.PENDING))))
    return (
        select(Job.id, Job.roll.label("roll"), Step.roll.label("step_roll"), Step.stage.label("stage"))
        .join(Step, Step.job_id == Job.id)
        .where(wrong)
    )


def _order() -> Query:
    """Steps that went ahead of the stage before them."""
    order = list(Stage)
    before = aliased(Step)
    order.remove(Stage.SCORE)
    previous = {later.value: earlier.value for earlier, later in itertools.pairwise(order)}
    previous[Stage.SCORE.value] = Stage.ENCODE.value  # that publish waits for it is the rule "accepted"
    # The first step of most lines is screen: it follows enhance only where there is such a step.
    missing = and_(before.id.is_(None), Step.stage.not_in((Stage.ENHANCE, Stage.SCREEN)))
    # A later segment goes on from the one before, which may be made again meanwhile: its last frames are kept.
    later = and_(Step.segment > 0, Step.stage == Stage.GENERATE)
    return (
        select(Step.job_id, Step.stage.label("stage"), Step.state.label("state"), before.state.label("before"))
        .join(
            before,
            and_(
                before.job_id == Step.job_id,
                before.roll == Step.roll,
                before.segment == case((later, Step.segment - 1), else_=Step.segment),
                before.stage == case((later, Stage.GENERATE.value), else_=case(previous, value=Step.stage, else_="")),
            ),
            isouter=True,
        )
        .where(
            Step.state.in_((*_OPEN, *_SUCCESS)),
            or_(missing, and_(~later, before.state.not_in(_SUCCESS)), before.state == StepState.FAILED),
        )
    )


def _step_fields() -> Query:
    wrong = (
        (Step.state == StepState.RUNNING) != Step.worker.is_not(None),
        and_(Step.state == StepState.RUNNING, or_(Step.attempt < 1, Step.started_at.is_(None))),
        and_(Step.state.in_(_LIVE), Step.dispatched_at.is_(None)),
        Step.state.in_(_ENDED) != Step.finished_at.is_not(None),
    )
    return select(
        Step.job_id,
        Step.stage.label("stage"),
        Step.state.label("state"),
        Step.worker.label("worker"),
        Step.attempt.label("attempt"),
        Step.finished_at.label("finished_at"),
    ).where(or_(*wrong))


def _cancel_wins() -> Query:
    """A job that was asked to stop is still with a worker, or has ended as it must: nobody would ever move it else."""
    stops = or_(
        Job.state.in_((JobState.CANCELLED, JobState.SUCCEEDED)),
        and_(Job.state == JobState.IN_FLIGHT, _steps((StepState.RUNNING,)), ~_steps((StepState.DISPATCHED,))),
    )
    return select(Job.id, Job.state.label("state")).where(
        or_(and_(Job.cancel_requested, ~stops), and_(Job.state == JobState.CANCELLED, ~Job.cancel_requested))
    )


def _approval() -> Query:
    held = _ran(StageRun.outcome == AttemptOutcome.HELD)
    generated = exists().where(Step.job_id == Job.id, Step.stage == Stage.GENERATE, Step.attempt > 0)
    wrong = (
        and_(Job.state == JobState.HELD, or_(~held, _event("approved"))),
        and_(held, ~_event("approved"), generated),
        and_(Job.state == JobState.BLOCKED, generated),
    )
    return select(Job.id, Job.state.label("state")).where(or_(*wrong), ~_history_removed(Job.batch_id))


# What was published


def _published() -> Query:
    videos = func.count(ArtifactRow.job_id).filter(ArtifactRow.kind == "video")
    done = _steps((StepState.DONE,), Stage.PUBLISH)
    wanted = case((Job.state != JobState.SUCCEEDED, 0), (_media_removed(Job.batch_id), 0), else_=1)
    return (
        select(Job.id, Job.state.label("state"), videos.label("videos"))
        .join(ArtifactRow, and_(ArtifactRow.job_id == Job.id, ArtifactRow.roll == Job.roll), isouter=True)
        .group_by(Job.id)
        .having(or_(videos != wanted, and_(Job.state == JobState.SUCCEEDED, ~done)))
    )


def _artifacts() -> Query:
    named = ArtifactRow.key.startswith("media/" + Job.id + "/" + ArtifactRow.sha256 + ".")
    return (
        select(Job.id, ArtifactRow.kind.label("kind"), ArtifactRow.roll.label("roll"), ArtifactRow.key.label("key"))
        .join(ArtifactRow, ArtifactRow.job_id == Job.id)
        .where(or_(Job.state != JobState.SUCCEEDED, ArtifactRow.roll != Job.roll, ~named))
    )


def _accepted() -> Query:
    """Where a batch has clips scored: publish follows a score step that accepted this very roll, and only there."""
    scored = Batch.options["score"].as_string().is_not(None)
    score = aliased(Step)
    accepted = exists().where(
        score.job_id == Step.job_id,
        score.roll == Step.roll,
        score.stage == Stage.SCORE,
        score.state == StepState.DONE,
        score.output["accepted"].as_boolean(),
    )
    wrong = or_(
        and_(Step.stage == Stage.SCORE, ~scored),
        and_(Step.stage == Stage.PUBLISH, Step.state.in_((*_OPEN, *_SUCCESS)), scored, ~accepted),
    )
    return (
        select(Step.job_id, Step.roll.label("roll"), Step.stage.label("stage"), Step.state.label("state"))
        .join(Batch, Batch.id == Step.batch_id)
        .where(Step.stage.in_((Stage.SCORE, Stage.PUBLISH)), wrong)
    )


def _rolls() -> Query:
    """Every roll before the current one was turned down."""
    rejected = (
        select(func.count(Step.id))
        .where(
            Step.job_id == Job.id,
            Step.roll < Job.roll,
            Step.stage == Stage.SCORE,
            Step.state.in_((StepState.DONE, StepState.FAILED)),
            ~Step.output["accepted"].as_boolean(),
        )
        .correlate(Job)
        .scalar_subquery()
    )
    return select(Job.id, Job.roll.label("roll"), rejected.label("rejected")).where(
        Job.roll > 1, rejected != Job.roll - 1
    )


def _scores() -> Query:
    """A clip that was scored has its scores in rows."""
    return select(Step.job_id, Step.roll.label("roll")).where(
        Step.stage == Stage.SCORE,
        Step.output.is_not(None),
        Step.state.in_((StepState.DONE, StepState.FAILED)),
        ~exists().where(Score.job_id == Step.job_id, Score.roll == Step.roll),
    )


def _frames() -> Query:
    recorded = Step.output["frames_sha256"].as_string()
    return (
        select(Step.job_id, Step.segment.label("segment"), Segment.frames_sha256.label("frames_sha256"))
        .join(
            Segment,
            and_(Segment.job_id == Step.job_id, Segment.roll == Step.roll, Segment.segment == Step.segment),
            isouter=True,
        )
        .where(
            Step.stage == Stage.GENERATE,
            Step.state == StepState.DONE,
            or_(Segment.frames_sha256.is_(None), Segment.frames_sha256 != recorded),
        )
    )


def _segments() -> Query:
    """A clip is published with all its segments, and the last is encoded after the others."""
    wanted = func.coalesce(Job.spec["segments"].as_integer(), 1)
    mine = (Step.job_id == Job.id) & (Step.roll == Job.roll) & (Step.state == StepState.DONE)
    generated = select(func.count()).where(mine, Step.stage == Stage.GENERATE).scalar_subquery()
    encoded = select(func.count()).where(mine, Step.stage == Stage.ENCODE).scalar_subquery()
    published = _steps((StepState.DONE,), Stage.PUBLISH)
    return select(Job.id, wanted.label("segments"), generated.label("generated"), encoded.label("encoded")).where(
        published, Job.state == JobState.SUCCEEDED, or_(generated != wanted, encoded != wanted)
    )


def _continued() -> Query:
    """What a segment goes on from is kept until its clip has ended."""
    state = exists().where(
        ContinuationState.job_id == Step.job_id,
        ContinuationState.roll == Step.roll,
        ContinuationState.segment == Step.segment - 1,
    )
    return (
        select(Step.job_id, Step.segment.label("segment"), Step.state.label("state"))
        .join(Job, and_(Job.id == Step.job_id, Job.roll == Step.roll))
        .where(Step.stage == Stage.GENERATE, Step.segment > 0, Step.state.in_(_OPEN), ~state)
    )


# Attempts


def _bounds() -> Query:
    """I9: what went wrong with a step is bounded, and a step whose tries are used up is not tried again."""
    open_ = Step.state.in_((*_OPEN, StepState.PENDING))
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


def _history_removed(batch_id: Any) -> ColumnElement[bool]:
    return exists().where(Event.batch_id == batch_id, Event.kind == HISTORY_REMOVED)


def _media_removed(batch_id: Any) -> ColumnElement[bool]:
    return exists().where(Event.batch_id == batch_id, Event.kind == MEDIA_REMOVED)


def _attempts() -> Query:
    """Every attempt that ended has its row, numbered without a gap; the one that is running has none yet."""
    ended = Step.attempt - case((Step.state == StepState.RUNNING, 1), else_=0)
    rows, first, last = func.count(StageRun.id), func.min(StageRun.attempt), func.max(StageRun.attempt)
    return (
        select(Step.job_id, Step.stage.label("stage"), Step.attempt.label("attempt"), rows.label("rows"))
        .join(StageRun, StageRun.step_id == Step.id, isouter=True)
        .group_by(Step.id)
        .having(or_(rows != ended, and_(rows > 0, or_(first != 1, last != ended))))
        .where(~_history_removed(Step.batch_id))
    )


def _last_outcome() -> Query:
    """How a step ended is what its last attempt says."""
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
        .where(~_history_removed(Step.batch_id))
        .group_by(Step.id)
        .having(commits > 1 + rewinds)
    )


RULES = (
    Rule("sums", "a batch has one job for each that was submitted", _sums()),
    Rule("active", "a batch with open jobs is active", _active()),
    Rule("job state", "a job's state is what its steps say", _state_of_steps()),
    Rule("one step", "one step of a segment is open at a time", _one_open_step()),
    Rule("roll", "only the current roll's steps are open", _current_roll()),
    Rule("order", "a step waits for the stage before it", _order()),
    Rule("step fields", "worker, attempt and times fit the step's state", _step_fields()),
    Rule("cancel", "a job that was asked to stop stops, and no other is cancelled", _cancel_wins()),
    Rule("approval", "nothing is generated without the approval that it needs", _approval()),
    Rule("published", "a succeeded job has one video, any other none", _published()),
    Rule("artifacts", "files belong to the current roll of a succeeded job, under their own digest", _artifacts()),
    Rule("accepted", "where clips are scored, the published roll is the accepted one", _accepted()),
    Rule("rolls", "every roll before the current one was scored and rejected", _rolls()),
    Rule("scores", "a scored clip has scores", _scores()),
    Rule("frames", "a generated segment has the frames' digest that its step recorded", _frames()),
    Rule("segments", "a published clip has every segment, generated and encoded", _segments()),
    Rule("continuation", "what a segment goes on from is kept until it is generated", _continued()),
    Rule("bounds", "errors, crashes, faults and losses of a step are bounded", _bounds()),
    Rule("attempts", "a step's attempts are rows numbered from 1 without a gap", _attempts()),
    Rule("outcome", "a step ended as its last attempt did", _last_outcome()),
    Rule("commits", "a step commits once, and once more for each rewind", _committed_once()),
)
"""Every rule, in the order in which a report shows them."""
