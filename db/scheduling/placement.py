"""Model placement in rows: which GPU worker holds which preset, and what waits for which preset.

The rows of live GPU workers are locked, in one order, while presets are assigned: any number of dispatchers may do so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, SQLColumnExpression, bindparam, case, exists, func, select
from sqlalchemy.orm import Session

from db import events, workers
from db.models import LIVE_INDEX, Batch, Job, Reservation, StageRun, Step, StreamSession, Worker
from db.queue.outcomes import return_to_waiting
from db.queue.pauses import is_paused, paused_queues
from db.scheduling.budgets import Budgets
from db.scheduling.capacity import (
    failed,
    gpu_capacity,
    in_flight,
    mean_seconds,
    queues_by_type,
    ready,
    reserved_workers,
    serves_unloaded,
)
from db.session import now_ms
from pipeline.policy.placement import Demand, GpuWorker, QueueLoad, assign
from pipeline.policy.routes import ALL_QUEUES, GpuCapacity, preset_queue, preset_slug, preset_slug_of, split_need
from pipeline.presets import Preset
from pipeline.states import JobState, Stage, StepState

_COUNTED = 100
"""Clips of one batch that are counted at most: the order of large numbers decides nothing."""
_MOST_COUNTED = 500
"""Clips of one preset after which no further batch is read: where each clip is a batch, there are thousands."""
_PAGE = 200
_GIB = 1024**3


def _of_first_waiting(
    stage: Stage, column: SQLColumnExpression[Any], *order: SQLColumnExpression[Any]
) -> ScalarSelect[Any]:
    conditions = (Step.batch_id == Batch.id, Step.stage == stage, Step.state == StepState.WAITING)
    return select(column).where(*conditions).order_by(*order).limit(1).correlate(Batch).scalar_subquery()


def head_priority(stage: Stage) -> ScalarSelect[int]:
    """The priority of a batch's first step of this stage that waits, whatever for; null where none does.

    Not EXISTS, which Postgres may answer by reading all that waits, of every batch, into a hash.
    """
    return _of_first_waiting(stage, Step.priority, Step.need, Step.priority.desc(), Step.id)


_FIRST_NEED = _of_first_waiting(Stage.GENERATE, Step.need, Step.need)
_LAST_NEED = _of_first_waiting(Stage.GENERATE, Step.need, Step.need.desc())
ONLY_NEED = case((_FIRST_NEED == _LAST_NEED, _FIRST_NEED))
"""The need of all clips of a batch that wait to be generated; null where there are several, or none."""


_NEXT_NEED = (
    select(Step.need)
    .where(
        Step.batch_id == bindparam("p_batch_id"),
        Step.stage == Stage.GENERATE,
        Step.state == StepState.WAITING,
        Step.need > bindparam("p_beyond"),
    )
    .order_by(Step.need)
    .limit(1)
)


OF_SESSION = exists().where(StreamSession.batch_id == Batch.id, StreamSession.ended_at.is_(None))
"""The batch belongs to a session that goes on: its clips are made on the GPU that is reserved for it."""
_TO_GENERATE = (
    select(Batch.id, ONLY_NEED, head_priority(Stage.GENERATE))
    .where(Batch.active, ~Batch.paused, ~OF_SESSION)
    .order_by(Batch.id)
)


def waiting_needs(session: Session, batch_id: str) -> list[str]:
    """The needs of the batch's clips that wait to be generated, each once, with one index lookup for each."""
    connection, needs, beyond = session.connection(), [], ""
    while (need := connection.execute(_NEXT_NEED, {"p_batch_id": batch_id, "p_beyond": beyond}).scalar()) is not None:
        needs.append(need)
        beyond = need
    return needs


def planned(session: Session, presets: Mapping[str, Preset], *, affinity_s: float) -> dict[str, str | None]:
    """The moves that are due, by worker's name; locks nothing.

    A worker that is to serve its preset, although nobody can load it, is "moved" to the preset that it has.
    """
    return _decide(session, _live_gpu_workers(session, lock=False), presets, affinity_s)


def assign_presets(session: Session, presets: Mapping[str, Preset], *, affinity_s: float) -> dict[str, str | None]:
    """Make the moves that are due now, and return them by worker's name."""
    rows = _live_gpu_workers(session, lock=True)
    moves = _decide(session, rows, presets, affinity_s)
    now = session.scalars(select(now_ms())).one()
    for worker in rows:
        if worker.name not in moves:
            continue
        was, preset = worker.assigned_preset, moves[worker.name]
        if preset != was:
            worker.assigned_preset, worker.assigned_since = preset, now
            events.record(session, "preset_assigned", worker=worker.name, gpu=worker.gpu_type, preset=preset, was=was)
        if preset is not None and preset in failed(worker, now):
            failures = worker.failed_presets or {}
            worker.failed_presets = {**failures, preset: {**failures[preset], "serves": True}}
    return moves


def _live_gpu_workers(session: Session, *, lock: bool) -> Sequence[Worker]:
    query = (
        select(Worker)
        .where(Worker.gpu_type.is_not(None), ~Worker.draining, Worker.seen_at > now_ms() - workers.ALIVE_MS)
        .where(~exists().where(Reservation.worker == Worker.name, Reservation.ended_at.is_(None)))
        .order_by(Worker.name)
    )
    return session.scalars(query.with_for_update() if lock else query).all()


def _decide(
    session: Session, rows: Sequence[Worker], presets: Mapping[str, Preset], affinity_s: float
) -> dict[str, str | None]:
    if not rows:
        return {}
    now = session.scalars(select(now_ms())).one()
    demands = _demands(session, rows, presets, now)
    wanted = {demand.preset: demand.types for demand in demands}
    keys = {(gpu_type, preset) for preset, types in wanted.items() for gpu_type in types}
    keys |= {(row.gpu_type or "", row.assigned_preset) for row in rows if row.assigned_preset is not None}
    states, busy = _states(session, keys, now), _busy(session, rows)
    moves = assign([_as_worker(row, now, busy) for row in rows], demands, states, affinity_s=affinity_s)
    for row in rows:
        if row.assigned_preset in failed(row, now) and row.name not in moves and not serves_unloaded(row, now):
            moves[row.name] = row.assigned_preset  # nobody else is left to try
    return moves


def _as_worker(row: Worker, now: int, busy: set[str]) -> GpuWorker:
    return GpuWorker(
        row.name,
        row.gpu_type or "",
        slots=row.slots,
        memory_bytes=row.memory_bytes,
        preset=row.assigned_preset,
        ready=ready(row, now),
        held_s=(now - (row.assigned_since or now)) / 1000,
        busy=row.name in busy,
        failed=failed(row, now),
    )


def _demands(session: Session, rows: Sequence[Worker], presets: Mapping[str, Preset], now: int) -> list[Demand]:
    """The clips that wait for a GPU and may be dispatched, counted for each preset and set of GPU types."""
    paused = paused_queues(session)
    if ALL_QUEUES in paused:
        return []
    batches = [row for row in session.connection().execute(_TO_GENERATE) if row[-1] is not None]
    if not batches:
        return []
    budgets = Budgets.load(session, lambda: gpu_capacity(session))
    live = {row.gpu_type or "": GpuCapacity(1, 0, None) for row in rows}
    demands: dict[tuple[str, frozenset[str]], Demand] = {}
    for batch_id, only_need, _ in sorted(batches, key=lambda row: -row[-1]):  # the highest priority first
        if not budgets.allows(batch_id):
            continue
        open_to = budgets.open_to(batch_id, live)
        for need in waiting_needs(session, batch_id) if only_need is None else [only_need]:
            preset, gpu = split_need(need)
            slug = preset_slug(preset)
            able = [gpu_type for gpu_type in open_to if not gpu or gpu_type in gpu]
            types = frozenset(kind for kind in able if not is_paused(preset_queue(kind, slug), paused))
            earlier = demands.get((slug, types))
            if not types or (earlier is not None and earlier.waiting >= _MOST_COUNTED):
                continue
            if demand := _demand(session, batch_id, need, slug, types, presets.get(preset), now):
                demands[slug, types] = _sum(earlier, demand) if earlier else demand
    return list(demands.values())


def _demand(
    session: Session, batch_id: str, need: str, slug: str, types: frozenset[str], preset: Preset | None, now: int
) -> Demand | None:
    waiting = session.execute(
        select(Step.priority, Job.created_at)
        .join(Job, Job.id == Step.job_id)
        .where(*waiting_steps(batch_id, Stage.GENERATE, need))
        .order_by(Step.priority.desc(), Step.id)
        .limit(_COUNTED)
    ).all()
    if not waiting:
        return None
    priority, since = waiting[0]
    memory = int(preset.memory_gib * _GIB) if preset is not None and preset.memory_gib is not None else None
    return Demand(slug, types, len(waiting), priority, (now - since) / 1000, memory)


def waiting_steps(batch_id: str, stage: Stage, need: str = "") -> tuple[ColumnElement[bool], ...]:
    """Conditions on steps joined with their jobs: dispatchable now, and with this need where they generate."""
    return (
        Step.batch_id == batch_id,
        Step.stage == stage,
        Step.state == StepState.WAITING,
        Step.need == need,
        Step.not_before <= now_ms(),
        Job.state.in_((JobState.WAITING, JobState.IN_FLIGHT)),
        ~Job.cancel_requested,
    )


def _sum(first: Demand, second: Demand) -> Demand:
    return Demand(
        first.preset,
        first.types,
        first.waiting + second.waiting,
        max(first.priority, second.priority),
        max(first.waited_s, second.waited_s),
        first.memory_bytes,
    )


def _states(session: Session, keys: Iterable[tuple[str, str]], now: int) -> dict[tuple[str, str], QueueLoad]:
    """The load of these GPU types' and presets' queues."""
    loads = {
        queue: (count, priority)
        for queue, count, priority in session.execute(
            select(Step.queue, func.count(), func.max(Step.priority)).where(LIVE_INDEX).group_by(Step.queue)
        )
    }
    states = {}
    for gpu_type, preset in keys:
        queue = preset_queue(gpu_type, preset)
        count, priority = loads.get(queue, (0, None))
        last = (
            None if count else session.scalars(select(func.max(StageRun.ended_at)).where(StageRun.queue == queue)).one()
        )
        idle_s = 0.0 if count else (now - (last or 0)) / 1000
        states[gpu_type, preset] = QueueLoad(count, priority, idle_s, mean_seconds(session, queue))
    return states


def _busy(session: Session, rows: Sequence[Worker]) -> set[str]:
    """The names of workers in the middle of a clip."""
    queues = [queue for names in queues_by_type(rows).values() for queue in names]
    running = select(Step.worker).where(LIVE_INDEX, Step.state == StepState.RUNNING, Step.queue.in_(queues))
    return {name for name in session.scalars(running) if name is not None}


def withdraw_unserved(session: Session) -> int:
    """Return a page of steps to waiting whose queue no live worker serves; return how many there were."""
    reserved = reserved_workers(session)
    rows = [row for row in workers.alive(session) if row.assigned_preset is not None and not row.draining]
    served = {reserved.get(row.name, preset_queue(row.gpu_type or "", row.assigned_preset or "")) for row in rows}
    unserved = [queue for queue in in_flight(session) if preset_slug_of(queue) is not None and queue not in served]
    if not unserved:
        return 0
    steps = session.scalars(
        select(Step.id).where(Step.state == StepState.DISPATCHED, LIVE_INDEX, Step.queue.in_(unserved)).limit(_PAGE)
    ).all()
    return len(return_to_waiting(session, Step, steps))
