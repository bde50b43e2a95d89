"""Estimates that were kept beside batches, and the GPU time that these took."""

from collections.abc import Collection, Sequence
from statistics import median

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.models import Batch, Event, Job, StageRun
from pipeline.states import Stage

ESTIMATED = "estimated"
"""Kind of the event that keeps a batch's estimate beside it."""
_PAST, _PACED = 20, 5
_INTERRUPTED = 10.0
"""A batch that took so many times its GPU time was stopped for a while."""


def kept(session: Session, batch_id: str) -> float | None:
    """Return the GPU seconds that were estimated for a batch; None where nothing was."""
    query = select(Event.data).where(Event.batch_id == batch_id, Event.kind == ESTIMATED).limit(1)
    data = session.scalars(query).first()
    return None if data is None else float(data["gpu_seconds"])


def ratios(session: Session) -> Sequence[float]:
    """Truth over estimate of the last batches that ended and had one, ascending."""
    query = (
        select(Event.batch_id, Event.data)
        .join(Batch, Batch.id == Event.batch_id)
        .where(Event.kind == ESTIMATED, ~Batch.active)
        .order_by(Event.id.desc())
        .limit(_PAST)
    )
    pairs = [
        (gpu_seconds_taken(session, str(batch_id)), data["gpu_seconds"]) for batch_id, data in session.execute(query)
    ]
    return sorted(taken / estimated for taken, estimated in pairs if taken and estimated)


def gpu_seconds_taken(session: Session, batch_id: str) -> float:
    """Return the seconds of all attempts of a batch at generating."""
    query = (
        select(func.sum(StageRun.ended_at - StageRun.started_at))
        .join(Job, Job.id == StageRun.job_id)
        .where(Job.batch_id == batch_id, StageRun.stage == Stage.GENERATE)
    )
    return float(session.scalars(query).one() or 0) / 1000


def pace(session: Session, presets: Collection[str]) -> float:
    """How much longer the last batches of these presets took, from first to last, than their GPUs were at it.

    What comes before and after generating, and between two clips, is in it. 1 where nothing is known.
    """
    query = (
        select(Job.batch_id)
        .join(Batch, Batch.id == Job.batch_id)
        .where(Job.spec["preset"].as_string().in_(presets), ~Batch.active)
        .distinct()
        .order_by(Job.batch_id.desc())
        .limit(_PACED)
    )
    paces = [value for batch_id in session.scalars(query).all() if (value := _pace_of(session, batch_id)) is not None]
    return max(1.0, median(paces)) if paces else 1.0


def _pace_of(session: Session, batch_id: str) -> float | None:
    generating = StageRun.stage == Stage.GENERATE
    ms, workers, began, ended = session.execute(
        select(
            func.sum(StageRun.ended_at - StageRun.started_at).filter(generating),
            func.count(StageRun.worker.distinct()).filter(generating),
            func.min(StageRun.started_at),
            func.max(StageRun.ended_at),
        )
        .join(Job, Job.id == StageRun.job_id)
        .where(Job.batch_id == batch_id)
    ).one()
    value = float(ended - began) * int(workers) / float(ms) if ms else None
    return value if value is not None and value <= _INTERRUPTED else None
