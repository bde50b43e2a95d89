"""Reservations of GPU workers for sessions: which worker, until when, and the cost of idle time.

A rule of the one dispatcher, and no second pool. A reservation begins at once: the worker may claim nothing but the
session's segments from then on (``leases.taking``), and what it is in the middle of is given back with a checkpoint
when its lease is next looked at (``leases.check_control``), within a step and a second. It is ready once the worker
holds the session's preset and nothing else runs there. It ends with the session, or with the worker: then the session
gets another one, and goes on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from db import events, workers
from db.clips import spending
from db.models import LIVE_INDEX, Batch, Reservation, ScoreStep, StageRun, Step, StreamSession, Worker
from db.moves import LeasedTable, move_session
from db.notify import wake_dispatcher
from db.queue.leases import live
from db.queue.outcomes import return_to_waiting
from db.scheduling.capacity import failed, ready
from db.session import now_ms
from pipeline.policy.routes import fits, gpu_queue, preset_queue, preset_slug, session_queue, split_need
from pipeline.presets import Preset
from pipeline.states import SESSION_ENDS, SessionState, StepState

COUNT_MS = 10_000
"""Idle time is counted so often, so that a budget ends soon after it is used up."""
ABANDONED_MS = 600_000
"""Messages to a session's own queue that come later than this after it was settled are not expected."""
_PAGE = 200


def are_due(session: Session) -> bool:
    """Return whether a session waits for a GPU or has one: if none does, there is nothing to update."""
    open_session = exists().where(StreamSession.settled_at.is_(None), StreamSession.ended_at.is_(None))
    reserved = exists().where(Reservation.ended_at.is_(None))
    return bool(session.scalars(select(open_session | reserved)).one())


def update(
    session: Session, presets: Mapping[str, Preset], *, share: float, silence_ms: int = workers.ALIVE_MS
) -> None:
    """End what is over, see what is ready, and reserve GPUs for the sessions that wait, oldest first.

    A worker of which nothing was heard for ``silence_ms`` is lost to its session.
    The caller is the only dispatcher (``dispatch.is_alone``). Rows are locked in one order: sessions, workers, jobs,
    batches.
    """
    now = session.scalars(select(now_ms())).one()
    alive = {row.name: row for row in workers.alive(session, silence_ms=silence_ms)}
    every = session.execute(
        select(Reservation.session_id, Reservation.worker).where(Reservation.ended_at.is_(None))
    ).all()
    reserved = _live(session)
    over = {item.id: why for item, owner in reserved if (why := _end_of(owner, alive.get(item.worker)))}
    held = [(item, owner) for item, owner in reserved if item.id not in over]
    for item, owner in held:
        if item.ready_at is None and _is_ready(session, item, owner, alive[item.worker], now):
            item.ready_at = item.counted_to = now
            if owner.state is SessionState.GPU_BINDING:
                move_session(owner, SessionState.ACTIVE)
            facts = {"session_id": owner.id, "worker": item.worker, "gpu": item.gpu_type}
            events.record(session, "session_ready", batch_id=owner.batch_id, **facts)
            wake_dispatcher(session)
    # A session that somebody has in hand just now keeps its GPU, though its row is not among those locked here.
    taken = {row.worker for row in every} - {item.worker for item, _ in reserved if item.id in over}
    heard_of = [row for row in alive.values() if row.seen_at > now - workers.ALIVE_MS]
    gpus = [row for row in heard_of if row.gpu_type is not None and not row.draining]
    ended = [(item, owner, over[item.id]) for item, owner in reserved if item.id in over]
    _end(session, ended, now)
    room = math.ceil(share * len(gpus)) - len(taken)
    free = [row for row in gpus if row.name not in taken]
    sent_to = _bind_waiting(session, presets, free, {row.session_id for row in every}, room, now)
    _withdraw_sent(session, [*sent_to, *(item.queue for item, _, _ in ended)])
    for item, owner in held:
        item.until = owner.last_seen + owner.timeout_ms if now - item.counted_to >= COUNT_MS else item.until
    due = [item for item, _ in held if now - item.counted_to >= COUNT_MS]
    for item in sorted([*due, *(item for item, _, _ in ended)], key=lambda each: each.batch_id):
        if item.ready_at is not None:
            _count_idle(session, item, now)


def _live(session: Session) -> list[tuple[Reservation, StreamSession]]:
    """The reservations that hold, each with its session, whose rows are locked; without those that somebody else has
    locked, which the next poll finds."""
    query = (
        select(Reservation, StreamSession)
        .join(StreamSession, StreamSession.id == Reservation.session_id)
        .where(Reservation.ended_at.is_(None))
        .order_by(Reservation.session_id)
        .with_for_update(of=StreamSession, skip_locked=True)
        .execution_options(populate_existing=True)
    )
    return [(item, owner) for item, owner in session.execute(query)]


def _end_of(owner: StreamSession, worker: Worker | None) -> str | None:
    """Why a reservation is over; None while it holds."""
    if owner.state in SESSION_ENDS:
        return "session_ended"
    if worker is None:
        return "worker_lost"
    return "worker_drains" if worker.draining else None


def _is_ready(session: Session, item: Reservation, owner: StreamSession, worker: Worker, now: int) -> bool:
    slug = preset_slug(owner.preset)
    if worker.assigned_preset != slug or not ready(worker, now):
        return False
    return not any(session.scalars(select(_runs_others(table, item))).one() for table in (Step, ScoreStep))


def _runs_others(table: LeasedTable, item: Reservation) -> Any:
    return exists().where(live(table, StepState.RUNNING), table.worker == item.worker, table.queue != item.queue)


# Its beginning


def _bind_waiting(
    session: Session, presets: Mapping[str, Preset], free: list[Worker], bound: set[str], room: int, now: int
) -> list[str]:
    """Reserve so many more of the free GPUs; the queues that these have read so far. ``bound`` have, or had, one."""
    if room <= 0 or not free:
        return []
    query = (
        select(StreamSession)
        .where(StreamSession.settled_at.is_(None), StreamSession.ended_at.is_(None), StreamSession.id.not_in(bound))
        .order_by(StreamSession.created_at, StreamSession.id)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    sent_to: list[str] = []
    for owner in session.scalars(query).all():
        worker = _choose(session, owner, presets, free, now)
        if worker is not None:
            sent_to += _bind(session, owner, worker, now)
            free.remove(worker)
            room -= 1
        if room == 0 or not free:
            break
    return sent_to


def _choose(
    session: Session, owner: StreamSession, presets: Mapping[str, Preset], free: Sequence[Worker], now: int
) -> Worker | None:
    """The worker that is ready soonest: with the model before one without, idle before busy, the least urgent work."""
    preset, types = split_need(owner.need)
    slug = preset_slug(preset)
    able = [
        worker
        for worker in free
        if (not types or worker.gpu_type in types)
        and fits(presets.get(preset), worker.memory_bytes)
        and slug not in failed(worker, now)
    ]
    if not able:
        return None
    busy = session.execute(
        select(Step.worker, func.max(Step.priority).label("priority"))
        .where(LIVE_INDEX, Step.state == StepState.RUNNING, Step.worker.in_([row.name for row in able]))
        .group_by(Step.worker)
    )
    running = {row.worker: row.priority for row in busy}

    def cost(worker: Worker) -> tuple[bool, bool, int, str]:
        holds = worker.assigned_preset == slug and ready(worker, now)
        return not holds, worker.name in running, running.get(worker.name, 0), worker.name

    return min(able, key=cost)


def abandoned_queues(session: Session) -> Sequence[str]:
    """The queues of sessions that settled within the last ten minutes: no worker reads them any more."""
    settled = select(StreamSession.id).where(StreamSession.settled_at > now_ms() - ABANDONED_MS)
    held = select(Reservation.queue).where(Reservation.ended_at.is_(None))
    query = select(Reservation.queue).where(Reservation.session_id.in_(settled), Reservation.queue.not_in(held))
    return session.scalars(query.distinct().order_by(Reservation.queue)).all()


def _bind(session: Session, owner: StreamSession, worker: Worker, now: int) -> list[str]:
    """Reserve the worker; the queues that it has read so far: what was sent there and has not begun goes to others."""
    row = session.scalars(select(Worker).where(Worker.name == worker.name).with_for_update()).one_or_none()
    if row is None:
        return []
    slug, was = preset_slug(owner.preset), row.assigned_preset
    session.add(
        Reservation(
            session_id=owner.id,
            batch_id=owner.batch_id,
            worker=row.name,
            gpu_type=row.gpu_type or "",
            queue=session_queue(row.gpu_type or "", owner.id),
            created_at=now,
            until=owner.last_seen + owner.timeout_ms,
            counted_to=now,
            idle_ms=0,
        )
    )
    if was != slug:
        row.assigned_preset, row.assigned_since = slug, now
    if owner.state is SessionState.QUEUED:
        move_session(owner, SessionState.GPU_BINDING)
    session.flush()
    facts = {"session_id": owner.id, "worker": row.name, "gpu": row.gpu_type, "was": was}
    events.record(session, "session_bound", batch_id=owner.batch_id, **facts)
    wake_dispatcher(session)
    return [gpu_queue(row.gpu_type or ""), *([] if was is None else [preset_queue(row.gpu_type or "", was)])]


def _withdraw_sent(session: Session, queues: Sequence[str]) -> None:
    """Return to waiting what was sent to these queues and has not begun: their messages may be with that worker."""
    for table in (Step, ScoreStep) if queues else ():
        sent = select(table.id).where(live(table, StepState.DISPATCHED), table.queue.in_(queues)).limit(_PAGE)
        return_to_waiting(session, table, session.scalars(sent).all())


# Its end


def _end(session: Session, ended: Sequence[tuple[Reservation, StreamSession, str]], now: int) -> None:
    """Let the workers go; what was sent to them, and what the time costs, is the caller's to see to."""
    for item, owner, why in ended:
        item.ended_at, item.end_reason = now, why
        if owner.state is SessionState.GPU_BINDING:
            move_session(owner, SessionState.QUEUED)
        facts = {"session_id": owner.id, "worker": item.worker, "gpu": item.gpu_type, "why": why}
        events.record(session, "session_unbound", batch_id=owner.batch_id, **facts)
        wake_dispatcher(session)
    session.flush()


def _count_idle(session: Session, item: Reservation, now: int) -> None:
    """Count the time since it was last counted in which no segment was generated, and charge the session's batch."""
    since = item.counted_to
    ended = session.execute(
        select(StageRun.started_at, StageRun.ended_at).where(StageRun.queue == item.queue, StageRun.ended_at > since)
    ).all()
    running = session.scalars(
        select(Step.started_at).where(
            live(Step, StepState.RUNNING), Step.queue == item.queue, Step.worker == item.worker
        )
    ).all()
    spans = [*ended, *((started_at or now, now) for started_at in running)]
    idle = max(0, now - since - sum(max(0, min(end, now) - max(start, since)) for start, end in spans))
    item.idle_ms, item.counted_to = item.idle_ms + idle, now
    session.flush()
    if session.get(Batch, item.batch_id) is not None:
        spending.charge_idle(session, item.batch_id, item.queue, idle)
