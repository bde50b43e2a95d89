"""Steps that return to waiting undone: released by their worker, or withdrawn before one claimed them."""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.orm import Session

from db.clips import jobs
from db.models import Step
from db.queue.attempt_endings import Finished, end_attempt_as, end_cancelled
from db.session import now_ms
from pipeline.states import AttemptOutcome, JobState, StepState
from pipeline.work import Claim


def release(session: Session, claimed: Claim, *, delay_ms: int = 0) -> Finished:
    """Give a step back unfinished (drain, pause, cancel, back-pressure): no failed attempt."""
    work = claimed.work
    if jobs.lock(session, work.job_id).cancel_requested:
        return end_cancelled(session, claimed)
    recorded = end_attempt_as(
        session, claimed, AttemptOutcome.RELEASED, state=StepState.WAITING, queue=None, not_before=now_ms() + delay_ms
    )
    if recorded:
        jobs.move(session, work.job_id, JobState.WAITING)
    return Finished(recorded)


def return_to_waiting(session: Session, step_id: int, job_id: str) -> bool:
    """Return a dispatched step to waiting, wherever its message is. False when it is no longer dispatched."""
    jobs.lock(session, job_id)
    moved = session.execute(
        update(Step)
        .where(Step.id == step_id, Step.state == StepState.DISPATCHED)
        .values(state=StepState.WAITING, queue=None)
        .returning(Step.id)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if moved is not None:
        jobs.move(session, job_id, JobState.WAITING)
    return moved is not None
