"""Predicts the step that a GPU worker will run next; it only reads, and claims nothing."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import LIVE_INDEX, Job, Step
from db.queue.leases import WORK, outputs_of, spec_of
from pipeline.spec import BatchOptions
from pipeline.states import Stage, StepState
from pipeline.work import StepWork


def likely_next(session: Session, queues: Sequence[str]) -> StepWork | None:
    """The step that was sent to one of these queues first and that nobody has claimed.

    Its attempt is 0, since it is no claim. It has no checkpoint, continuation or memory rung: those are for its maker.
    """
    row = session.execute(
        select(Step.job_id, Step.roll, Step.segment)
        .join(Job, Job.id == Step.job_id)
        .where(
            LIVE_INDEX,
            Step.state == StepState.DISPATCHED,
            Step.stage == Stage.GENERATE,
            Step.queue.in_(queues),
            Step.roll == Job.roll,
            ~Job.cancel_requested,
        )
        .order_by(Step.dispatched_at, Step.id)
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    job_id, roll, segment = row
    rows = session.execute(WORK, {"p_job_id": job_id, "p_roll": roll, "p_segment": segment}).all()
    batch_id, line, stored_spec, options = rows[0][:4]
    return StepWork(
        job_id=job_id,
        batch_id=batch_id,
        line=line,
        roll=roll,
        segment=segment,
        stage=Stage.GENERATE,
        attempt=0,
        spec=spec_of(stored_spec, roll),
        options=BatchOptions.model_validate(options),
        outputs=outputs_of(rows),
    )
