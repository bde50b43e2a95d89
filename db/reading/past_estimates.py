"""Compares the estimates of past batches with the GPU time that they took."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import median

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.models import Batch, Event, Job, StageRun
from pipeline.states import Stage

ESTIMATED = "estimated"
"""Kind of the event that keeps a batch's estimate beside it."""
_PAST, _PACED = 20, 5
_INTERRUPTED = 10.0
"""A batch that took so many times its GPU time, from its first clip to its last, was stopped for a while."""
_TOO_LONG_MS = 3_600_000
"""What took longer before the first clip was no loading of a model: it was paused, or nobody was at work."""
_RECENT = 50_000
"""Attempts that are looked through."""


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


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a batch takes, given the seconds that its GPUs are at it."""

    around_s: float = 0.0
    """The seconds before the first clip is begun, such as loading the model, and after the last one is generated."""
    factor: float = 1.0
    """From the first clip's begin to the last one's end, for each second of GPU time: what lies between two clips."""

    def seconds(self, gpu_seconds: float) -> float:
        """The whole time of a batch."""
        return self.around_s + self.factor * gpu_seconds


def pace(session: Session, presets: Collection[str]) -> Pace:
    """Return the medians of the last batches of these presets that ended.

    The two parts are apart since one does not grow with the batch: after a small one that loaded its model, a larger
    one would else be said to take several times too long.
    """
    query = (
        select(Job.batch_id)
        .join(Batch, Batch.id == Job.batch_id)
        .where(Job.spec["preset"].as_string().in_(presets), ~Batch.active)
        .distinct()
        .order_by(Job.batch_id.desc())
        .limit(_PACED)
    )
    batch_ids = session.scalars(query).all()
    paces = [value for batch_id in batch_ids if (value := _pace_of(session, batch_id)) is not None]
    around = [value.around_s for value in paces if value.around_s >= 0]
    return Pace(median(around) if around else 0.0, max(1.0, median(value.factor for value in paces)) if paces else 1.0)


def _pace_of(session: Session, batch_id: str) -> Pace | None:
    """The pace of one batch; ``around_s`` is negative where it waited for others, or is not known."""
    generating = StageRun.stage == Stage.GENERATE
    row = session.execute(
        select(
            func.sum(StageRun.ended_at - StageRun.started_at).filter(generating).label("gpu_ms"),
            func.count(StageRun.worker.distinct()).filter(generating).label("workers"),
            func.min(StageRun.started_at).label("began"),
            func.min(StageRun.started_at).filter(generating).label("first"),
            func.max(StageRun.ended_at).filter(generating).label("last"),
            func.max(StageRun.ended_at).label("ended"),
        )
        .join(Job, Job.id == StageRun.job_id)
        .where(Job.batch_id == batch_id)
    ).one()
    if not row.gpu_ms:
        return None
    factor = float(row.last - row.first) * int(row.workers) / float(row.gpu_ms)
    if factor > _INTERRUPTED:
        return None
    around_ms = (row.first - row.began) + (row.ended - row.last)
    waited = _others_between(session, batch_id, row.began, row.first)
    return Pace(-1.0 if waited or around_ms > _TOO_LONG_MS else around_ms / 1000, factor)


def _others_between(session: Session, batch_id: str, began: int, first: int) -> bool:
    """Whether clips of other batches were generated while this one waited for its first."""
    others = (
        select(StageRun.id)
        .join(Job, Job.id == StageRun.job_id)
        .where(
            StageRun.stage == Stage.GENERATE,
            Job.batch_id != batch_id,
            StageRun.ended_at > began,
            StageRun.started_at < first,
            StageRun.id > select(func.max(StageRun.id)).scalar_subquery() - _RECENT,
        )
        .limit(1)
    )
    return session.scalars(others).first() is not None
