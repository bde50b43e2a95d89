"""Rules for batches, for jobs, and for the steps that a job has."""

import itertools

from sqlalchemy import ColumnElement, and_, case, exists, func, or_, select
from sqlalchemy.orm import aliased

from db.invariants.rule import LIVE, OPEN, SUCCESS, Query, Rule, has_step, history_removed
from db.models import Batch, ContinuationState, Event, Job, StageRun, Step, StreamSession
from pipeline.states import TERMINAL_JOB_STATES, AttemptOutcome, JobState, Stage, StepState

GIVEN = -1
"""The segment of a state that another job left (``db.clips.continuations``)."""
_ENDED = (StepState.DONE, StepState.SKIPPED, StepState.FAILED, StepState.CANCELLED)


def _event(kind: str) -> ColumnElement[bool]:
    return exists().where(Event.job_id == Job.id, Event.kind == kind)


def _ran(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(StageRun.job_id == Job.id, *conditions)


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


def _state_of_steps() -> Query:
    waiting, live = has_step((StepState.WAITING,)), has_step(LIVE)
    # A session's segment is not generated before the one that it goes on from has left its state.
    given = exists().where(ContinuationState.job_id == Job.id, ContinuationState.segment == GIVEN)
    follows = and_(Job.spec["extends"].as_string().is_not(None), has_step((StepState.PENDING,), Stage.GENERATE), ~given)
    kept_back = has_step((StepState.PENDING,), Stage.GENERATE)  # a release ago it waited
    wrong = (
        and_(Job.state == JobState.WAITING, or_(and_(~waiting, ~follows), live)),
        and_(Job.state == JobState.HELD, or_(and_(~waiting, ~kept_back), live)),
        and_(Job.state == JobState.IN_FLIGHT, ~live),
        and_(Job.state.in_(TERMINAL_JOB_STATES), has_step(OPEN)),
        # A step that waits for an earlier one stays behind where that one failed; a retry goes on from there.
        and_(Job.state.in_(TERMINAL_JOB_STATES - {JobState.FAILED}), has_step((StepState.PENDING,))),
        and_(Job.state == JobState.FAILED, ~has_step((StepState.FAILED,))),
        and_(Job.state == JobState.SUCCEEDED, has_step((StepState.FAILED, StepState.CANCELLED))),
    )
    return select(Job.id, Job.state.label("state"), waiting.label("waiting"), live.label("live")).where(or_(*wrong))


def _one_open_step() -> Query:
    return (
        select(Step.job_id, Step.segment.label("segment"), func.count().label("open_steps"))
        .where(Step.state.in_(OPEN))
        .group_by(Step.job_id, Step.segment)
        .having(func.count() > 1)
    )


def _current_roll() -> Query:
    wrong = or_(Step.roll > Job.roll, and_(Step.roll < Job.roll, Step.state.in_((*OPEN, StepState.PENDING))))
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
    # The job that joins a session's clips begins where others are encoded.
    joins = exists().where(StreamSession.joined_job_id == Step.job_id)
    missing = and_(missing, ~and_(Step.stage == Stage.ENCODE, joins))
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
            Step.state.in_((*OPEN, *SUCCESS)),
            or_(missing, and_(~later, before.state.not_in(SUCCESS)), before.state == StepState.FAILED),
        )
    )


def _step_fields() -> Query:
    wrong = (
        (Step.state == StepState.RUNNING) != Step.worker.is_not(None),
        and_(Step.state == StepState.RUNNING, or_(Step.attempt < 1, Step.started_at.is_(None))),
        and_(Step.state.in_(LIVE), Step.dispatched_at.is_(None)),
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
        and_(Job.state == JobState.IN_FLIGHT, has_step((StepState.RUNNING,)), ~has_step((StepState.DISPATCHED,))),
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
    return select(Job.id, Job.state.label("state")).where(or_(*wrong), ~history_removed(Job.batch_id))


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
)
