"""Counts the steps in flight in each queue, and the free capacity of GPU types and presets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.orm import Session

from db import workers
from db.models import LIVE_INDEX, Reservation, StageRun, Step, Worker
from db.moves import LeasedTable
from db.queue.leases import live
from db.queue.pauses import is_paused, paused_queues
from db.session import now_ms
from pipeline.policy.routes import GpuCapacity, gpu_queue, gpu_type_of, preset_queue, preset_slug_of
from pipeline.states import AttemptOutcome, StepState

FAILED_MS = 600_000
"""A preset that a worker could not load is tried there again after so long: it may have been put right."""
_RECENT_RUNS = 20
_RECENT = (
    select((StageRun.ended_at - StageRun.started_at).label("ms"))
    .where(StageRun.queue == bindparam("p_queue"), StageRun.outcome == AttemptOutcome.DONE)
    .order_by(StageRun.ended_at.desc())
    .limit(_RECENT_RUNS)
    .subquery()
)
_MEAN_MS = select(func.avg(_RECENT.c.ms))


def in_flight(session: Session, table: LeasedTable = Step) -> dict[str, int]:
    """Steps dispatched or running, by queue: those of jobs, or of another leased table."""
    rows = session.connection().execute(_counting(table))
    return {queue: count for queue, count in rows if queue is not None}


@cache
def _counting(table: LeasedTable) -> Select[str | None, int]:
    return select(table.queue, func.count()).where(live(table), table.queue.is_not(None)).group_by(table.queue)


def gpu_capacity(session: Session, live: Mapping[str, int] | None = None) -> dict[str, GpuCapacity]:
    """The capacity of each GPU type with a live worker, whatever its workers hold; paused types are left out."""
    capacity = workers.capacity(session)
    live = in_flight(session) if live is None else live
    in_flight_by_type: dict[str, int] = {}
    for queue, count in live.items():
        if (gpu_type := gpu_type_of(queue)) is not None:
            in_flight_by_type[gpu_type] = in_flight_by_type.get(gpu_type, 0) + count
    queues = queues_by_type(workers.alive(session))
    paused = paused_queues(session)
    by_type = {}
    for queue, slots in capacity.slots.items():
        gpu_type = gpu_type_of(queue)
        if gpu_type is not None and preset_slug_of(queue) is None and not is_paused(queue, paused):
            means = [mean for name in queues.get(gpu_type, [queue]) if (mean := mean_seconds(session, name))]
            mean = sum(means) / len(means) if means else None
            by_type[gpu_type] = GpuCapacity(slots, in_flight_by_type.get(gpu_type, 0), mean, capacity.memory[queue])
    return by_type


def queues_by_type(alive: Iterable[Worker]) -> dict[str, list[str]]:
    """The queues that live GPU workers read, by GPU type."""
    by_type: dict[str, set[str]] = {}
    for worker in alive:
        if worker.gpu_type is not None:
            queues = by_type.setdefault(worker.gpu_type, {gpu_queue(worker.gpu_type)})
            if worker.assigned_preset is not None:
                queues.add(preset_queue(worker.gpu_type, worker.assigned_preset))
    return {gpu_type: sorted(queues) for gpu_type, queues in by_type.items()}


def mean_seconds(session: Session, queue: str) -> float | None:
    """Mean time of the last generations on a queue; None when there were none."""
    mean = session.connection().execute(_MEAN_MS, {"p_queue": queue}).scalar()
    return None if mean is None else float(mean) / 1000


def reserved_workers(session: Session) -> dict[str, str]:
    """The workers that are reserved for sessions, and the queue that each reads meanwhile."""
    live = select(Reservation.worker, Reservation.queue).where(Reservation.ended_at.is_(None))
    return {row.worker: row.queue for row in session.connection().execute(live)}


CapacityOfPresets = dict[str, dict[str, GpuCapacity]]
"""Capacity by preset slug, then by GPU type."""


def ready(worker: Worker, now: int) -> bool:
    """Return whether the worker serves its preset: it holds it, or nobody can load it and the jobs must fail."""
    return worker.assigned_preset is not None and (
        worker.loaded == worker.assigned_preset or serves_unloaded(worker, now)
    )


def serves_unloaded(worker: Worker, now: int) -> bool:
    """Return whether the dispatcher decided that it serves its preset's queue although it cannot load the preset."""
    preset = worker.assigned_preset or ""
    return preset in failed(worker, now) and bool((worker.failed_presets or {})[preset].get("serves"))


def failed(worker: Worker, now: int) -> frozenset[str]:
    """The presets that the worker lately could not load; ``now`` is the database's clock."""
    failures = worker.failed_presets or {}
    return frozenset(preset for preset, failure in failures.items() if now - failure["at"] < FAILED_MS)


def preset_capacity(session: Session, live: Mapping[str, int], paused: Sequence[str]) -> CapacityOfPresets:
    """The capacity of the presets that are served now; paused queues and workers that are reserved are left out."""
    now, reserved = session.scalars(select(now_ms())).one(), reserved_workers(session)
    serving: dict[tuple[str, str], list[Worker]] = {}
    for worker in workers.alive(session):
        if (
            worker.gpu_type is not None
            and worker.assigned_preset is not None
            and not worker.draining
            and worker.name not in reserved
            and ready(worker, now)
        ):
            serving.setdefault((worker.assigned_preset, worker.gpu_type), []).append(worker)
    by_preset: CapacityOfPresets = {}
    for (preset, gpu_type), members in serving.items():
        queue = preset_queue(gpu_type, preset)
        if not is_paused(queue, paused):
            memory = [worker.memory_bytes for worker in members if worker.memory_bytes is not None]
            count = sum(worker.slots for worker in members)
            capacity = GpuCapacity(count, live.get(queue, 0), mean_seconds(session, queue), max(memory, default=None))
            by_preset.setdefault(preset, {})[gpu_type] = capacity
    return by_preset


def overdue(session: Session, queues: Sequence[str], *, older_than_ms: int) -> bool:
    """Return whether one of these queues holds a step that was sent longer ago than that and not claimed."""
    old = (
        select(Step.id)
        .where(
            Step.queue.in_(queues),
            Step.state == StepState.DISPATCHED,
            LIVE_INDEX,
            Step.dispatched_at < now_ms() - older_than_ms,
        )
        .limit(1)
    )
    return session.scalars(old).first() is not None
