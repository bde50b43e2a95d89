"""Estimates a submission before anything is spent: GPU time, cost, bytes, and finish time."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import events
from db.reading import clip_times, past_estimates, remaining
from db.reading.clip_times import ByShape, Shape, Times
from db.reading.past_estimates import Pace
from db.scheduling.capacity import gpu_capacity
from db.session import now_ms
from pipeline.models.gpus import find_gpus
from pipeline.policy.routes import fits
from pipeline.presets import load_library, measured
from pipeline.prompts import Submission
from pipeline.prompts.submission import alike
from pipeline.settings import Settings
from service.views.base import when
from service.views.estimates import CalibrationOfEstimatesView, EstimatePartView, EstimateView

_HOUR_S = 3600
NEAR = 0.2
"""An estimate within this share of the truth is called near."""


Slots = Mapping[str, tuple[int, int | None]]
"""Slots and memory in bytes by GPU type."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Jobs of one shape and one choice of GPU types."""

    shape: Shape
    gpu: tuple[str, ...]


def of_submission(session: Session | None, submission: Submission, settings: Settings) -> EstimateView:
    """Estimate from this database's history, else from `vgen bench preset`; what is not known stays None.

    Without a session nothing was submitted here yet.
    """
    groups: Counter[_Group] = Counter()
    pixels, longest = 0, 1
    for job, count in alike(submission.jobs):
        spec = job.spec
        groups[_Group(Shape.of_spec(spec), spec.gpu)] += count * spec.segments
        pixels += count * spec.width * spec.height * spec.total_frames
        longest = max(longest, spec.segments)
    presets = {group.shape.preset for group in groups}
    slots = _slots(session, settings)
    known = {} if session is None else clip_times.learn(session, presets)
    parts = [_part(group, count, known, slots, settings) for group, count in groups.items()]
    density = None if session is None else clip_times.bytes_per_pixel(session, presets)
    return _view(session, parts, slots, longest, None if density is None else round(density * pixels), settings)


def _slots(session: Session | None, settings: Settings) -> dict[str, tuple[int, int | None]]:
    """Slots and memory by GPU type: of the live workers, or in solo mode of this machine."""
    lines = {} if session is None else gpu_capacity(session)
    live = {name: (line.slots, line.memory_bytes) for name, line in lines.items() if line.slots}
    if live or not settings.solo:
        return live
    here: dict[str, tuple[int, int | None]] = {}
    for gpu in find_gpus(settings.gpu_type, settings.gpu_count, settings.gpus_per_worker):
        here[gpu.type] = (here.get(gpu.type, (0, None))[0] + 1, gpu.memory_bytes or None)
    return here


def _part(group: _Group, segments: int, known: ByShape, slots: Slots, settings: Settings) -> EstimatePartView:
    preset = load_library(settings.effective_presets_dir).presets.get(group.shape.preset)
    able = [
        name for name, (_, memory) in slots.items() if (not group.gpu or name in group.gpu) and fits(preset, memory)
    ]
    candidates = able or list(group.gpu) or sorted({gpu for shape, gpu in known if shape.preset == group.shape.preset})
    measured = [
        (gpu, learnt[0], learnt[1])
        for gpu in candidates
        if (learnt := _times(group.shape, gpu, known, settings)) is not None
    ]
    fastest = min(measured, key=lambda item: item[1].mean, default=None)
    gpu_type, times, basis = fastest or (None, None, "unknown")
    return EstimatePartView(
        preset=group.shape.preset,
        width=group.shape.width,
        height=group.shape.height,
        num_frames=group.shape.num_frames,
        num_inference_steps=group.shape.steps,
        acceleration=group.shape.acceleration or None,
        gpu_type=gpu_type,
        has_worker=gpu_type in able,
        segments=segments,
        basis=basis,
        n=0 if times is None else times.n,
        mean_seconds=None if times is None else times.mean,
        p50_seconds=None if times is None else times.p50,
        p90_seconds=None if times is None else times.p90,
    )


def _times(shape: Shape, gpu_type: str, known: ByShape, settings: Settings) -> tuple[Times, str] | None:
    """The seconds of a segment and what they rest on: the same shape, the nearest one of the preset, or a bench."""
    if (exact := known.get((shape, gpu_type))) is not None:
        return exact, "measured"
    others = [
        (other, times)
        for (other, gpu), times in known.items()
        if gpu == gpu_type and (other.preset, other.acceleration) == (shape.preset, shape.acceleration)
    ]
    if others:
        near, times = min(others, key=lambda item: abs(item[0].work - shape.work))
        return times.scaled(shape.work / near.work), "scaled"
    bench = measured.read(settings.effective_presets_dir, shape.preset)
    if bench is None or bench.gpu_type != gpu_type or shape.acceleration:
        return None
    seconds = bench.seconds * shape.work / (bench.width * bench.height * bench.num_frames * bench.steps)
    return Times(1, seconds, seconds, seconds), "bench"


def _view(
    session: Session | None,
    parts: list[EstimatePartView],
    slots: Slots,
    longest: int,
    size: int | None,
    settings: Settings,
) -> EstimateView:
    unknown = sorted({part.preset for part in parts if part.mean_seconds is None})
    reason = None
    seconds = p90 = wall = cost = None
    if unknown:
        reason = f"nothing like it was made here: `vgen bench preset {unknown[0]}` measures it"
    else:
        seconds = sum(part.segments * (part.mean_seconds or 0.0) for part in parts)
        p90 = sum(part.segments * (part.p90_seconds or 0.0) for part in parts)
        prices = [settings.prices.get(part.gpu_type or "") for part in parts]
        if None not in prices:
            hours = [part.segments * (part.mean_seconds or 0.0) / _HOUR_S for part in parts]
            cost = sum(hour * (price or 0.0) for hour, price in zip(hours, prices, strict=True))
        if all(part.has_worker for part in parts):
            wall = _wall(session, parts, slots, longest)
        else:
            reason = "no live worker can make all of it"
    now = int(time.time() * 1000) if session is None else session.scalars(select(now_ms())).one()
    return EstimateView(
        gpu_seconds=None if seconds is None else round(seconds, 3),
        gpu_seconds_p90=None if p90 is None else round(p90, 3),
        cost=cost,
        bytes=size,
        seconds=None if wall is None else round(wall, 3),
        finished_at=None if wall is None else when(now + int(wall * 1000)),
        no_estimate=reason,
        parts=parts,
    )


def _wall(session: Session | None, parts: Sequence[EstimatePartView], slots: Slots, longest: int) -> float:
    """Seconds until it would be done: what others have before it, then its own, over the slots that can take it."""
    by_type: dict[str, float] = {}
    slowest = 0.0
    for part in parts:
        each, name = part.mean_seconds or 0.0, part.gpu_type or ""
        by_type[name] = by_type.get(name, 0.0) + part.segments * each
        slowest = max(slowest, longest * each)
    own = max(seconds / slots[name][0] for name, seconds in by_type.items())
    pace = Pace() if session is None else past_estimates.pace(session, {part.preset for part in parts})
    return _waiting(session, sum(slots[name][0] for name in by_type)) + pace.seconds(max(slowest, own))


def _waiting(session: Session | None, slots: int) -> float:
    """Seconds that the segments of other batches take first."""
    if session is None:
        return 0.0
    ahead = sum(work.segments for work in remaining.of_all_batches(session).values())
    each = [line.seconds_each for line in gpu_capacity(session).values() if line.seconds_each]
    return ahead * min(each, default=0.0) / max(slots, 1)


def keep(session: Session, batch_id: str, view: EstimateView) -> None:
    """Keep the estimate beside the batch, where there is one, so that it can be held against the truth."""
    if view.gpu_seconds is not None:
        seconds = {"gpu_seconds": view.gpu_seconds, "seconds": view.seconds}
        events.record(session, past_estimates.ESTIMATED, batch_id=batch_id, job_id=None, **seconds)


def calibration(session: Session) -> CalibrationOfEstimatesView:
    """Hold the estimates of the last batches that ended against the GPU time that they took."""
    ratios = past_estimates.ratios(session)
    return CalibrationOfEstimatesView(
        batches=len(ratios),
        near=sum(abs(1 / ratio - 1) <= NEAR for ratio in ratios),
        median_ratio=round(ratios[len(ratios) // 2], 3) if ratios else None,
    )
