"""Says which segment of a session may be generated: the next one, once the one before has left its frames.

A segment is a job that ``extends`` the one before. Its prompt is screened at once; its generate step is ``pending``
until that job's generate step is finished, which hands on the continuation state in its own transaction. Jobs are
locked in the order of their ids, so the one that comes second sees what the first has done.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, SQLColumnExpression, exists, insert, select
from sqlalchemy.orm import Session

from db.clips import continuations
from db.clips.jobs import OPEN
from db.models import STEPS, Batch, ContinuationState, Job, Step
from db.moves import moving
from db.notify import wake_dispatcher
from pipeline.policy.routes import need_of
from pipeline.states import JobState, Stage, StepState
from pipeline.work import ContinuationRef, StepWork

_FIRST = 0
"""The only segment of a session's job, as the line counts them."""


def is_given(job_id: SQLColumnExpression[str]) -> ColumnElement[bool]:
    """The job has the state that its first segment starts from."""
    return exists().where(ContinuationState.job_id == job_id, ContinuationState.segment == continuations.GIVEN)


def must_wait(session: Session, work: StepWork) -> bool:
    """Return whether a job's frames cannot be generated yet: those that it goes on from are not there."""
    if work.options.session is None or work.spec.extends is None or work.segment > 0:
        return False
    return continuations.before(session, work.job_id, work.roll, _FIRST) is None


def wait_for_state(session: Session, work: StepWork) -> None:
    """Make the generate step of a job that must wait, unless it is there. The job's row is locked by the caller."""
    there = (Step.job_id == work.job_id, Step.roll == work.roll, Step.stage == Stage.GENERATE)
    if not session.scalars(select(exists().where(*there))).one():
        values = {"job_id": work.job_id, "batch_id": work.batch_id, "roll": work.roll, "segment": work.segment}
        step = {"stage": Stage.GENERATE, "state": StepState.PENDING, "priority": work.spec.priority}
        session.connection().execute(insert(STEPS).values(**values, **step, need=need_of(work.spec)))


def hand_on(session: Session, work: StepWork, state: ContinuationRef) -> None:
    """Give a job's state to those that extend it, and let them be generated. The job's row is locked by the caller."""
    following = session.execute(
        select(Job.id, Job.roll, Job.state)
        .where(
            Job.batch_id == work.batch_id,
            Job.id > work.job_id,
            Job.spec["extends"].as_string() == work.job_id,
            Job.state.in_(OPEN),
        )
        .order_by(Job.id)
        .with_for_update()
    ).all()
    for job_id, roll, job_state in following:
        of_next = (Step.job_id == job_id, Step.roll == roll, Step.stage == Stage.GENERATE)
        begun = session.scalars(select(Step.state).where(*of_next)).one_or_none()
        if begun in (None, StepState.PENDING, StepState.WAITING):
            _give(session, job_id, state, held=job_state is JobState.HELD)


def _give(session: Session, job_id: str, state: ContinuationRef, *, held: bool) -> None:
    """Record what a job starts from; its generate step, if it waited for that, waits for the dispatcher now.

    One that a person has to judge waits for that first.
    """
    continuations.put(session, job_id, 1, continuations.GIVEN, state)
    if held:
        return
    ready = moving(Step, StepState.WAITING, StepState.PENDING)
    session.connection().execute(ready.where(Step.job_id == job_id, Step.stage == Stage.GENERATE))
    wake_dispatcher(session)


def hold_back(session: Session, job_ids: Sequence[str]) -> None:
    """Make generate steps that wait without the state that they start from wait for it, as after a retry."""
    early = session.scalars(
        select(Step.id)
        .join(Job, Job.id == Step.job_id)
        .join(Batch, Batch.id == Step.batch_id)
        .where(
            Step.job_id.in_(job_ids),
            Step.stage == Stage.GENERATE,
            Step.state == StepState.WAITING,
            Batch.options["session"].as_string().is_not(None),
            Job.spec["extends"].as_string().is_not(None),
            ~is_given(Job.id),
        )
    ).all()
    if early:
        session.connection().execute(moving(Step, StepState.PENDING, StepState.WAITING).where(Step.id.in_(early)))
