"""Going back to an earlier stage, because what it left behind is gone."""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db import events
from db.clips import jobs, segments
from db.models import Step
from db.queue.attempt_endings import Finished, end_attempt_as, end_cancelled
from db.queue.failures import fail_for_good
from pipeline.policy.retry import MAX_LOSSES
from pipeline.states import AttemptOutcome, JobState, Stage, StepState
from pipeline.work import Claim


def rewind(session: Session, claimed: Claim, *, to: Stage, reason: str, segment: int | None = None) -> Finished:
    """Do an earlier step again, because what it left behind is gone. Charged to no budget of that step.

    ``segment`` is that step's, where it is not the same one's.

    The step itself counts the rewind as a loss, so that a line whose frames vanish every time comes to an end.
    """
    work = claimed.work
    if jobs.lock(session, work.job_id).cancel_requested:
        return end_cancelled(session, claimed)
    losses = session.scalars(select(Step.losses).where(Step.id == claimed.step_id)).one() + 1
    if losses >= MAX_LOSSES:
        return fail_for_good(session, claimed, code="rewound_too_often", message=f"{losses} rewinds; last: {reason}")
    recorded = end_attempt_as(
        session,
        claimed,
        AttemptOutcome.REWOUND,
        state=StepState.PENDING,
        queue=None,
        losses=losses,
        error=reason[:4000],
    )
    if recorded:
        again = work.segment if segment is None else segment
        rewind_steps(session, work.job_id, work.batch_id, work.roll, again, to, reason)
    return Finished(recorded)


def rewind_steps(session: Session, job_id: str, batch_id: str, roll: int, segment: int, to: Stage, reason: str) -> None:
    """Set the step ``to`` waiting again, and those after it pending. The job's row is locked by the caller."""
    order = list(Stage)
    after = order[order.index(to) + 1 :]
    of_segment = (Step.job_id == job_id) & (Step.roll == roll) & (Step.segment == segment)
    segments.end_open_steps(session, job_id, of_segment, Step.stage.in_(after), Step.state == StepState.RUNNING)
    session.execute(
        update(Step)
        .where(of_segment, Step.stage.in_(after), Step.state.not_in((StepState.FAILED, StepState.CANCELLED)))
        .values(state=StepState.PENDING, queue=None, lease_until=None, worker=None, finished_at=None)
        .execution_options(synchronize_session=False)
    )
    session.execute(
        update(Step)
        .where(of_segment, Step.stage == to, Step.state == StepState.DONE)
        .values(state=StepState.WAITING, queue=None, finished_at=None)
        .execution_options(synchronize_session=False)
    )
    jobs.move(session, job_id, JobState.WAITING)
    events.record(session, "rewound", batch_id=batch_id, job_id=job_id, to=to.value, reason=reason[:500])
