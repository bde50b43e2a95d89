"""Estimates: what no live worker can ever run, and when a batch will be done."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from sqlalchemy import Select, Table, bindparam, func, select
from sqlalchemy.orm import Session

from db import workers
from db.clips import spending
from db.models import LIVE_INDEX, STEPS, Batch, Event, Job, Step
from db.queue import pauses
from db.reading import remaining
from db.reading.remaining import TO_DO, RemainingWork
from db.scheduling.capacity import gpu_capacity
from db.workers import Capacity
from pipeline.policy.routes import ALL_QUEUES, GpuCapacity, fits, route
from pipeline.presets import Preset, all_presets
from pipeline.states import Stage, StepState

_WORK = {Stage.ENHANCE: "enhances prompts", Stage.SCREEN: "screens prompts", Stage.PUBLISH: "publishes clips"}


@dataclass(frozen=True, slots=True)
class Need:
    """The GPU that some jobs of a batch need; no types means any."""

    preset: str
    gpu: tuple[str, ...]
    jobs: int = 0


@dataclass(frozen=True, slots=True)
class Stuck:
    """Jobs that wait for capacity that does not exist."""

    jobs: int
    stage: Stage
    gpu: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds until the last clip is generated, or why that is not known."""

    seconds: float | None
    reason: str = ""


_EVENTS = cast(Table, Event.__table__).c
_FIRST_EVENT = select(_EVENTS.data).where(_EVENTS.batch_id == bindparam("p_batch_id")).order_by(_EVENTS.id).limit(1)


def needs(session: Session, batch_id: str) -> list[Need]:
    """Return the needs of the batch's jobs as they were stored; ended jobs are counted too."""
    first = session.connection().execute(_FIRST_EVENT, {"p_batch_id": batch_id}).scalar()
    if first is None or "needs" not in first:  # the beginning of its history was removed
        return _open_needs(session, batch_id)
    return [Need(need["preset"], tuple(need["gpu"]), need["jobs"]) for need in first["needs"]]


def _open_needs(session: Session, batch_id: str) -> list[Need]:
    """The same of the jobs that have not ended: reads them all."""
    preset, gpu = Job.spec["preset"].as_string(), func.coalesce(Job.spec["gpu"].as_string(), "[]")
    rows = session.execute(
        select(preset, gpu, func.count())
        .where(Job.batch_id == batch_id, Job.state.in_(TO_DO))
        .group_by(preset, gpu)
        .order_by(preset, gpu)
    )
    return [Need(name, tuple(json.loads(types)), count) for name, types, count in rows]


def live_types(capacity: Capacity) -> dict[str, int | None]:
    """GPU types with a live worker, paused or not, and the largest memory of each in bytes where it is known."""
    memory: dict[str, int | None] = {}
    for queue, slots in capacity.slots.items():
        gpu_type = spending.type_of(queue)
        if gpu_type is not None and slots > 0:
            sizes = [size for size in (memory.get(gpu_type), capacity.memory.get(queue)) if size is not None]
            memory[gpu_type] = max(sizes, default=None)
    return memory


def cannot_run(need: Need, live: Mapping[str, int | None], presets: Mapping[str, Preset]) -> str | None:
    """Say what this need lacks among the live GPU types; None when one of them will do."""
    wanted = [gpu_type for gpu_type in live if not need.gpu or gpu_type in need.gpu]
    if not wanted:
        names = " or ".join(need.gpu)
        return f"a GPU type that no live worker has: {names}" if names else "a GPU worker: none is alive"
    preset = presets.get(need.preset)
    if any(fits(preset, live[gpu_type]) for gpu_type in wanted) or preset is None:
        return None
    largest = max(size for gpu_type in wanted if (size := live[gpu_type]) is not None) / 1024**3
    return (
        f"{preset.memory_gib:g} GiB of GPU memory, which preset {need.preset} needs: "
        f"the live workers of {', '.join(sorted(wanted))} have at most {largest:.1f} GiB"
    )


def lacking(
    need: Need, live: Mapping[str, int | None], presets: Mapping[str, Preset], priced: Set[str] | None
) -> str | None:
    """As ``cannot_run``, for a batch that may use the GPU types in ``priced`` only; None: it may use all."""
    if priced is None:
        return cannot_run(need, live, presets)
    reason = cannot_run(need, {name: size for name, size in live.items() if name in priced}, presets)
    if reason is not None and cannot_run(need, live, presets) is None:
        return f"a GPU type that has a price (VGEN_PRICES), since the batch has a limit on cost: not {_some(live)}"
    return reason


def stuck(session: Session, batch: Batch, presets: Mapping[str, Preset] | None = None) -> list[Stuck]:
    """Return the jobs of the batch that no live worker can ever run, most first. They do not fail: workers may come."""
    if not batch.active:
        return []
    capacity = workers.capacity(session)
    reasons = _stuck_on_gpu(session, batch, live_types(capacity), all_presets() if presets is None else presets)
    reasons += _stuck_before(session, batch, capacity)
    return sorted(reasons, key=lambda item: (-item.jobs, item.reason))


def _stuck_on_gpu(
    session: Session, batch: Batch, live: dict[str, int | None], presets: Mapping[str, Preset]
) -> list[Stuck]:
    priced = None if batch.max_cost is None else frozenset(batch.prices or {})

    def missing(need: Need) -> str | None:
        return lacking(need, live, presets, priced)

    if not any(missing(need) for need in needs(session, batch.id)):
        return []
    jobs: dict[tuple[str, tuple[str, ...]], int] = {}
    for need in _open_needs(session, batch.id):
        if reason := missing(need):
            jobs[reason, need.gpu] = jobs.get((reason, need.gpu), 0) + need.jobs
    return [Stuck(count, Stage.GENERATE, gpu, f"{_jobs(count)} for {reason}") for (reason, gpu), count in jobs.items()]


def _stuck_before(session: Session, batch: Batch, capacity: Capacity) -> list[Stuck]:
    """Stages that no GPU is needed for, and that no live worker serves."""
    unserved = {stage: queue for stage in _WORK if (queue := route(stage)) and not capacity.slots.get(queue)}
    if not unserved:
        return []
    waiting, dispatched = (_by_stage(session, counted, batch.id, unserved) for counted in (_WAITING, _LIVE))
    stuck_jobs = []
    for stage, queue in unserved.items():
        count = waiting.get(stage, 0) + dispatched.get(stage, 0)
        if count:
            reason = f"{_jobs(count)} for a worker that {_WORK[stage]} ({queue}): none is alive"
            stuck_jobs.append(Stuck(count, stage, (), reason))
    return stuck_jobs


_BY_STAGE = (
    select(STEPS.c.stage, func.count())
    .where(STEPS.c.batch_id == bindparam("p_batch_id"), STEPS.c.stage.in_(bindparam("p_stages", expanding=True)))
    .group_by(STEPS.c.stage)
)
_WAITING = _BY_STAGE.where(STEPS.c.state == StepState.WAITING)
_LIVE = _BY_STAGE.where(LIVE_INDEX)


def _by_stage(
    session: Session, counted: Select[Stage, int], batch_id: str, stages: Iterable[Stage]
) -> dict[Stage, int]:
    rows = session.connection().execute(counted, {"p_batch_id": batch_id, "p_stages": list(stages)})
    return {row[0]: row[1] for row in rows}


def _jobs(count: int) -> str:
    return "1 job waits" if count == 1 else f"{count} jobs wait"


def _some(names: Mapping[str, object] | Sequence[str]) -> str:
    return ", ".join(sorted(names))


def completion(
    session: Session,
    batch: Batch,
    presets: Mapping[str, Preset] | None = None,
    left: Mapping[str, RemainingWork] | None = None,
) -> Estimate:
    """Estimate when the batch's last clip will have been generated, if all goes on as it does now.

    ``left`` is what ``remaining.of_all_batches`` returned, for callers that ask about several batches.

    From the live slots and the mean time of the last segments of each GPU type that can take the batch's jobs;
    batches at work share these equally, and no clip is done before its segments were made one after the other. A type
    that has generated nothing yet counts for nothing.
    """
    reason = why_stopped(session, batch)
    if reason is not None:
        return Estimate(None, reason)
    left = remaining.of_all_batches(session) if left is None else left
    own = left.get(batch.id, RemainingWork())
    if own.segments == 0:
        return Estimate(0.0)
    usable = _usable(session, batch, all_presets() if presets is None else presets)
    if not usable:
        return Estimate(None, "no live worker can generate it now")
    measured = [(line.slots, line.seconds_each) for line in usable if line.seconds_each]
    if not measured:
        return Estimate(None, "nothing was generated on these GPU types yet")
    rate = sum(slots / seconds for slots, seconds in measured)
    ahead = sum(min(own.segments, other.segments) for batch_id, other in left.items() if batch_id != batch.id)
    in_turn = own.longest * min(seconds for _, seconds in measured)
    return Estimate(max((own.segments + ahead) / rate, in_turn))


def _usable(session: Session, batch: Batch, presets: Mapping[str, Preset]) -> list[GpuCapacity]:
    needed = needs(session, batch.id)
    lines = gpu_capacity(session)
    return [
        line
        for gpu_type, line in lines.items()
        if line.slots > 0
        and (batch.max_cost is None or gpu_type in (batch.prices or {}))
        and any(
            (not need.gpu or gpu_type in need.gpu) and fits(presets.get(need.preset), line.memory_bytes)
            for need in needed
        )
    ]


class Halt(StrEnum):
    """The reason why an unfinished batch waits for a person, in words."""

    EVERYTHING = "everything is paused"
    BATCH = "the batch is paused"
    BUDGET = "its budget is used up"


def why_stopped(session: Session, batch: Batch) -> Halt | None:
    """Why nothing more of an unfinished batch is dispatched until a person says so; None when it goes on."""
    if not batch.active:
        return None
    if ALL_QUEUES in pauses.paused_queues(session):
        return Halt.EVERYTHING
    if batch.paused:
        return Halt.BATCH
    return Halt.BUDGET if batch.over_budget else None


def rests(session: Session, batch: Batch) -> bool:
    """Return whether a stopped batch is idle: nothing of it is dispatched or runs, or will be."""
    halt = why_stopped(session, batch)
    if halt is None:
        return False
    live = select(Step.id).where(LIVE_INDEX, Step.batch_id == batch.id).limit(1)
    if session.scalars(live).first() is not None:
        return False
    if halt is not Halt.BUDGET:
        return True
    # A budget stops what needs a GPU; the other stages go on.
    moving = (
        select(Step.id)
        .join(Job, Job.id == Step.job_id)
        .where(Step.batch_id == batch.id, Step.state == StepState.WAITING, Step.stage != Stage.GENERATE)
        .where(Job.state.in_(TO_DO))
        .limit(1)
    )
    return session.scalars(moving).first() is None
