"""How long clips take, by preset, size, length, steps, acceleration and GPU type, from the rows of finished ones."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles
from typing import Any, Self

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.models import ArtifactRow, Job, StageRun
from pipeline.digests import canonical_json
from pipeline.policy.routes import gpu_type_of
from pipeline.spec import JobSpec
from pipeline.states import AttemptOutcome, Stage

_RECENT = 50_000
"""Attempts that are looked through, the newest: an older machine's times would mislead."""
_CLIPS = 2_000


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides how long a segment takes on one type of GPU."""

    preset: str
    width: int
    height: int
    num_frames: int
    steps: int
    acceleration: str
    """As canonical JSON; empty for the plain way."""

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """The shape of a job, from its row's specification."""
        acceleration = spec.get("acceleration") or {}
        return cls(
            str(spec["preset"]),
            int(spec["width"]),
            int(spec["height"]),
            int(spec["num_frames"]),
            int(spec["num_inference_steps"]),
            canonical_json(acceleration) if acceleration else "",
        )

    @classmethod
    def of_spec(cls, spec: JobSpec) -> Self:
        """The shape of a job that is not stored yet."""
        return cls.of(spec.model_dump(mode="json", exclude_defaults=True))

    @property
    def work(self) -> float:
        """Pixels over all frames and steps: to this, times are nearly proportional."""
        return float(self.width * self.height * self.num_frames * self.steps)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of a segment as they were measured."""

    n: int
    mean: float
    p50: float
    p90: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """Raises ValueError: there are none."""
        if len(seconds) == 1:
            return cls(1, seconds[0], seconds[0], seconds[0])
        tenths = quantiles(seconds, n=10, method="inclusive")
        return cls(len(seconds), fmean(seconds), tenths[4], tenths[8])

    def scaled(self, factor: float) -> "Times":
        """The same for a clip of so many times the work."""
        return Times(self.n, self.mean * factor, self.p50 * factor, self.p90 * factor)


ByShape = dict[tuple[Shape, str], Times]
"""Times by shape and GPU type."""


def learn(session: Session, presets: Collection[str]) -> ByShape:
    """Read the newest first attempts that made a segment of these presets: a resumed one is shorter than its clip."""
    newest = select(func.max(StageRun.id)).scalar_subquery()
    query = (
        select(Job.spec, StageRun.queue, StageRun.ended_at - StageRun.started_at)
        .join(Job, Job.id == StageRun.job_id)
        .where(
            StageRun.id > newest - _RECENT,
            StageRun.stage == Stage.GENERATE,
            StageRun.outcome == AttemptOutcome.DONE,
            StageRun.attempt == 1,
            Job.spec["preset"].as_string().in_(presets),
        )
        .order_by(StageRun.id.desc())
        .limit(_CLIPS)
    )
    seconds: dict[tuple[Shape, str], list[float]] = {}
    for spec, queue, ms in session.execute(query):
        gpu_type = gpu_type_of(queue or "")
        if gpu_type is not None:
            seconds.setdefault((Shape.of(spec), gpu_type), []).append(ms / 1000)
    return {key: Times.of(values) for key, values in seconds.items()}


def bytes_per_pixel(session: Session, presets: Collection[str]) -> float | None:
    """Return the stored bytes of a clip's files for each pixel of its frames; None where no clip is kept."""
    pixels = (
        Job.spec["width"].as_integer()
        * Job.spec["height"].as_integer()
        * Job.spec["num_frames"].as_integer()
        * func.coalesce(Job.spec["segments"].as_integer(), 1)
    )
    sizes = (
        select(ArtifactRow.job_id, func.sum(ArtifactRow.size).label("size"))
        .join(Job, Job.id == ArtifactRow.job_id)
        .where(Job.spec["preset"].as_string().in_(presets))
        .group_by(ArtifactRow.job_id)
        .order_by(ArtifactRow.job_id.desc())
        .limit(_CLIPS)
        .subquery()
    )
    total, area = session.execute(
        select(func.sum(sizes.c.size), func.sum(pixels)).select_from(sizes).join(Job, Job.id == sizes.c.job_id)
    ).one()
    return float(total) / float(area) if total and area else None
