"""Lanes as rows: which GPU worker holds which preset, what waits for which, and who takes a clip now.

The rows of live GPU workers are locked, in one order, while lanes are given out: any number of dispatchers may do so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import ColumnElement, bindparam, func, select
from sqlalchemy.orm import Session

from db import events, workers
from db.models import ALL_QUEUES, LIVE_INDEX, Batch, Job, StageRun, Step, Worker
from db.queue import releases
from db.queue.pauses import is_paused, paused_queues
from db.scheduling.budgets import Budgets
from db.scheduling.capacity import failed, gpu_capacity, in_flight, mean_seconds, queues_by_type, ready, serves_unloaded
from db.session import now_ms
from pipeline.policy.placement import Demand, GpuWorker, QueueLoad, assign
from pipeline.policy.routes import GpuCapacity, preset_queue, preset_slug, preset_slug_of, split_need
from pipeline.presets import Preset
from pipeline.states import JobState, Stage, StepState

_COUNTED = 100
"""Clips of one batch that are counted at most: the order of large numbers decides nothing."""
_PAGE = 200
_GIB = 1024**3


def waits(stage: Stage) -> ColumnElement[bool]:
    """Of a batch: some step of this stage waits, whatever for."""
    mine = (Step.batch_id == Batch.id, Step.stage == stage, Step.state == StepState.WAITING)
    # Not EXISTS, which Postgres may answer by reading all that waits, of every batch, into a hash.
    return select(Step.id).where(*mine).order_by(Step.need).limit(1).correlate(Batch).scalar_subquery().is_not(None)


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


_TO_GENERATE = select(Batch.id).where(Batch.active, ~Batch.paused, waits(Stage.GENERATE)).order_by(Batch.id)


def waiting_needs(session: Session, batch_id: str) -> list[str]:
    """What the batch's clips need that wait to be generated, each once: one look into the index for each."""
    connection, needs, beyond = session.connection(), [], ""
    while (need := connection.execute(_NEXT_NEED, {"p_batch_id": batch_id, "p_beyond": beyond}).scalar()) is not None:
        needs.append(need)
        beyond = need
    return needs


def planned(session: Session, presets: Mapping[str, Preset], *, affinity_s: float) -> dict[str, str | None]:
    """The moves that are due, by worker's name: a look that locks nothing.

    A worker that is to serve its lane, although nobody can load the preset, is "moved" to the lane that it has.
    """
    return _decide(session, _live_gpu_workers(session, lock=False), presets, affinity_s)


def assign_presets(session: Session, presets: Mapping[str, Preset], *, affinity_s: float) -> dict[str, str | None]:
    """Make the moves that are due now; what was done, by worker's name."""
    rows = _live_gpu_workers(session, lock=True)
    moves = _decide(session, rows, presets, affinity_s)
    now = session.scalars(select(now_ms())).one()
    for worker in rows:
        if worker.name not in moves:
            continue
        was, lane = worker.assigned_preset, moves[worker.name]
        if lane != was:
            worker.assigned_preset, worker.assigned_since = lane, now
            events.record(session, "preset_assigned", worker=worker.name, gpu=worker.gpu_type, preset=lane, was=was)
        if lane is not None and lane in failed(worker, now):
            known = worker.failed_presets or {}
            worker.failed_presets = {**known, lane: {**known[lane], "serves": True}}
    return moves


def _live_gpu_workers(session: Session, *, lock: bool) -> Sequence[Worker]:
    query = (
        select(Worker)
        .where(Worker.gpu_type.is_not(None), ~Worker.draining, Worker.seen_at > now_ms() - workers.ALIVE_MS)
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
    lanes = {demand.lane: demand.types for demand in demands}
    keys = {(gpu_type, lane) for lane, types in lanes.items() for gpu_type in types}
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
        lane=row.assigned_preset,
        ready=ready(row, now),
        held_s=(now - (row.assigned_since or now)) / 1000,
        busy=row.name in busy,
        failed=failed(row, now),
    )


def _demands(session: Session, rows: Sequence[Worker], presets: Mapping[str, Preset], now: int) -> list[Demand]:
    """What waits for a GPU and may be dispatched, one for each preset and set of GPU types."""
    paused = paused_queues(session)
    if ALL_QUEUES in paused:
        return []
    batches = session.connection().execute(_TO_GENERATE).all()
    if not batches:
        return []
    budgets = Budgets.load(session, lambda: gpu_capacity(session))
    live = {row.gpu_type or "": GpuCapacity(1, 0, None) for row in rows}
    found: dict[tuple[str, frozenset[str]], Demand] = {}
    for (batch_id,) in batches:
        if not budgets.allows(batch_id):
            continue
        open_to = budgets.open_to(batch_id, live)
        for need in waiting_needs(session, batch_id):
            preset, gpu = split_need(need)
            lane = preset_slug(preset)
            able = [gpu_type for gpu_type in open_to if not gpu or gpu_type in gpu]
            types = frozenset(kind for kind in able if not is_paused(preset_queue(kind, lane), paused))
            if types and (one := _demand(session, batch_id, need, lane, types, presets.get(preset), now)):
                other = found.get((lane, types))
                found[lane, types] = _sum(other, one) if other else one
    return list(found.values())


def _demand(
    session: Session, batch_id: str, need: str, lane: str, types: frozenset[str], preset: Preset | None, now: int
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
    return Demand(lane, types, len(waiting), priority, (now - since) / 1000, memory)


def waiting_steps(batch_id: str, stage: Stage, need: str = "") -> tuple[ColumnElement[bool], ...]:
    """Of steps joined with their jobs, those that may be dispatched now; of one need where they generate."""
    return (
        Step.batch_id == batch_id,
        Step.stage == stage,
        Step.state == StepState.WAITING,
        Step.need == need,
        Step.not_before <= now_ms(),
        Job.state.in_((JobState.WAITING, JobState.IN_FLIGHT)),
        ~Job.cancel_requested,
    )


def _sum(one: Demand, other: Demand) -> Demand:
    return Demand(
        one.lane,
        one.types,
        one.waiting + other.waiting,
        max(one.priority, other.priority),
        max(one.waited_s, other.waited_s),
        one.memory_bytes,
    )


def _states(session: Session, keys: Iterable[tuple[str, str]], now: int) -> dict[tuple[str, str], QueueLoad]:
    """What is in flight in these lanes, and since when nothing is."""
    flying = {
        queue: (count, priority)
        for queue, count, priority in session.execute(
            select(Step.queue, func.count(), func.max(Step.priority)).where(LIVE_INDEX).group_by(Step.queue)
        )
    }
    states = {}
    for gpu_type, lane in keys:
        queue = preset_queue(gpu_type, lane)
        count, priority = flying.get(queue, (0, None))
        last = (
            None if count else session.scalars(select(func.max(StageRun.ended_at)).where(StageRun.queue == queue)).one()
        )
        idle_s = 0.0 if count else (now - (last or 0)) / 1000
        states[gpu_type, lane] = QueueLoad(count, priority, idle_s, mean_seconds(session, queue))
    return states


def _busy(session: Session, rows: Sequence[Worker]) -> set[str]:
    """Workers in the middle of a clip."""
    queues = [queue for some in queues_by_type(rows).values() for queue in some]
    running = select(Step.worker).where(LIVE_INDEX, Step.state == StepState.RUNNING, Step.queue.in_(queues))
    return {name for name in session.scalars(running) if name is not None}


def withdraw_unserved(session: Session) -> int:
    """Put a page of steps back in line whose lane no live worker has; how many there were."""
    rows = [row for row in workers.alive(session) if row.assigned_preset is not None and not row.draining]
    served = {preset_queue(row.gpu_type or "", row.assigned_preset or "") for row in rows}
    left = [queue for queue in in_flight(session) if preset_slug_of(queue) is not None and queue not in served]
    if not left:
        return 0
    found = session.execute(
        select(Step.id, Step.job_id)
        .where(Step.state == StepState.DISPATCHED, LIVE_INDEX, Step.queue.in_(left))
        .limit(_PAGE)
    ).all()
    return sum(
        releases.return_to_waiting(session, step_id, job_id)
        for step_id, job_id in sorted(found, key=lambda row: row[1])
    )
