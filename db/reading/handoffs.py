"""Lists the frames in hand-off folders that are still needed."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import Job, Step
from pipeline.states import TERMINAL_JOB_STATES, Stage, StepState


def live_stems(session: Session, job_ids: Sequence[str]) -> set[str]:
    """File stems of these jobs' frames that are being made, or wait to be encoded, whatever host they are on."""
    stems = set()
    rows = session.execute(
        select(Step.job_id, Step.roll, Step.segment, Step.attempt)
        .join(Job, Job.id == Step.job_id)
        .where(
            Step.job_id.in_(job_ids),
            Step.stage == Stage.GENERATE,
            Step.state.in_((StepState.RUNNING, StepState.DONE)),
            Step.roll == Job.roll,
            Job.state.not_in(TERMINAL_JOB_STATES),
        )
    )
    for job_id, roll, segment, attempt in rows:
        stems.add(f"{job_id}.{roll}.{segment}.{attempt}")
    return stems
