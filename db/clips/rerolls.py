"""Rolls of a job. Each is a try, with its own seed, at a clip that passes the gate."""

from __future__ import annotations

from sqlalchemy import delete, insert, literal, select, update
from sqlalchemy.orm import Session

from db import events
from db.clips.continuations import GIVEN
from db.models import Checkpoint, ContinuationState, Job, Step
from db.moves import moving
from pipeline.policy.routes import need_of
from pipeline.seeds import roll_seed
from pipeline.spec import JobSpec
from pipeline.states import Stage, StepState

_CARRIED = (Stage.ENHANCE, Stage.SCREEN)
"""The stages whose decisions about the prompt hold for every roll."""
_COPIED = ("job_id", "batch_id", "segment", "stage", "state", "priority", "output", "finished_at")


def start_next_roll(session: Session, job_id: str, *, reason: str) -> tuple[str, ...]:
    """Queue the job to be generated once more, as its next roll; return keys of checkpoints that it no longer needs.

    The job's row is locked by the caller, and none of its steps is open.
    """
    batch_id, roll, spec, priority = session.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(roll=Job.roll + 1)
        .returning(Job.batch_id, Job.roll, Job.spec, Job.priority)
        .execution_options(synchronize_session=False)
    ).one()
    carried = select(literal(roll), *(getattr(Step, name) for name in _COPIED)).where(
        Step.job_id == job_id,
        Step.roll == roll - 1,
        Step.stage.in_(_CARRIED),
        Step.state.in_((StepState.DONE, StepState.SKIPPED)),
    )
    session.execute(insert(Step).from_select(["roll", *_COPIED], carried.order_by(Step.id)))
    _close(session, job_id, roll - 1)
    job_spec = JobSpec.model_validate(spec)
    session.execute(
        insert(Step).values(
            job_id=job_id,
            batch_id=batch_id,
            roll=roll,
            segment=0,
            stage=Stage.GENERATE,
            state=StepState.WAITING,
            priority=priority,
            need=need_of(job_spec),
        )
    )
    seed = roll_seed(job_spec.seed, roll)
    details = {"roll": roll, "seed": seed, "rejected": roll - 1, "reason": reason[:500]}
    events.record(session, "rerolled", batch_id=batch_id, job_id=job_id, **details)
    session.execute(
        delete(ContinuationState)
        .where(ContinuationState.job_id == job_id, ContinuationState.roll < roll, ContinuationState.segment != GIVEN)
        .execution_options(synchronize_session=False)
    )
    dropped = delete(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.roll < roll).returning(Checkpoint.key)
    return tuple(session.scalars(dropped.execution_options(synchronize_session=False)))


def _close(session: Session, job_id: str, roll: int) -> None:
    """End what waits of a roll that was turned down: a clip that was made again had been further before."""
    left = moving(Step, StepState.CANCELLED, StepState.PENDING).where(Step.job_id == job_id, Step.roll == roll)
    session.connection().execute(left)
