"""Reads the published clips of a session, which its last job joins."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import Job, Step, StreamSession
from pipeline.outputs import StageOutputs
from pipeline.seeds import roll_seed
from pipeline.spec import JobSpec
from pipeline.states import JobState, Stage, StepState
from pipeline.work import JoinedClip


def is_joined(session: Session, job_id: str) -> bool:
    """Return whether the job is one that joins the clips of a session."""
    query = select(StreamSession.id).where(StreamSession.joined_job_id == job_id)
    return session.scalars(query).first() is not None


def clips(session: Session, batch_id: str, *, before: str | None = None) -> tuple[JoinedClip, ...]:
    """The clips of a batch that succeeded and were not deleted, in order, as far as the job ``before``."""
    query = select(Job).where(Job.batch_id == batch_id, Job.state == JobState.SUCCEEDED, Job.deleted_at.is_(None))
    jobs = session.scalars((query if before is None else query.where(Job.id < before)).order_by(Job.seq)).all()
    outputs: dict[str, dict[Stage, Any]] = {job.id: {} for job in jobs}
    done = Step.state.in_((StepState.DONE, StepState.SKIPPED))
    rows = session.execute(
        select(Step.job_id, Step.stage, Step.output)
        .join(Job, (Job.id == Step.job_id) & (Job.roll == Step.roll))
        .where(Step.job_id.in_(list(outputs)), done)
    )
    for job_id, stage, output in rows:
        outputs[job_id][stage] = output
    made = []
    for job in jobs:
        spec = JobSpec.model_validate(job.spec)
        spec = spec.model_copy(update={"seed": roll_seed(spec.seed, job.roll)})
        made.append(JoinedClip(job.id, spec, StageOutputs.from_rows(outputs[job.id])))
    return tuple(made)
