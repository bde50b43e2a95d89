"""Workers as rows: what they serve, their capabilities, and when they were last seen."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import cast

from sqlalchemy import Boolean, Table, bindparam, delete, insert, or_, select, update
from sqlalchemy.orm import Session

from db.models import Worker
from db.session import now_ms
from pipeline.policy.routes import is_encode_queue

ALIVE_MS = 30_000
"""A worker that has not been seen for so long is taken for gone."""
MISSED_REPORTS_MS = 15_000
"""A worker reports every five seconds: one that has not been seen for so long has missed three reports."""
FORGET_MS = 24 * 3600 * 1000
"""The row of a worker that has not been seen for so long is removed."""

_WORKERS = cast(Table, Worker.__table__)
_SAID = ("host", "pid", "queues", "slots", "gpu_type", "memory_bytes")
_REPORT = (
    update(_WORKERS)
    .where(_WORKERS.c.name == bindparam("p_name"))
    .values(
        **{name: bindparam(f"p_{name}", type_=_WORKERS.c[name].type) for name in _SAID},
        # Whoever drained it for a reason of its own is not overruled.
        draining=or_(_WORKERS.c.drain_reason.is_not(None), bindparam("p_draining", type_=Boolean)),
        seen_at=now_ms(),
    )
    .returning(_WORKERS.c.name)
)


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """The report of a worker at every heartbeat."""

    name: str
    host: str
    pid: int
    queues: Sequence[str]
    slots: int = 1
    gpu_type: str | None = None
    memory_bytes: int | None = None
    draining: bool = False


@dataclass(slots=True)
class Capacity:
    """The live slots and memory."""

    slots: dict[str, int] = field(default_factory=dict)
    """Live, not draining slots by queue."""
    memory: dict[str, int | None] = field(default_factory=dict)
    """The largest memory of any live worker by queue, where known."""


def report(session: Session, worker: WorkerReport) -> None:
    """Insert or refresh the worker's row."""
    values = asdict(worker) | {"queues": list(worker.queues)}
    connection = session.connection()
    row = connection.execute(_REPORT, {f"p_{name}": value for name, value in values.items()}).one_or_none()
    if row is None:
        connection.execute(insert(_WORKERS).values(started_at=now_ms(), seen_at=now_ms()), values)


def leave(session: Session, name: str) -> None:
    """Remove the row of a worker that ends in an orderly way."""
    session.execute(delete(Worker).where(Worker.name == name))


def forget_old(session: Session) -> None:
    session.execute(delete(Worker).where(Worker.seen_at < now_ms() - FORGET_MS))


def forget_all(session: Session) -> None:
    """Remove all workers: the caller knows that none of them lives."""
    session.execute(delete(Worker))


_ALIVE = select(Worker).where(Worker.seen_at > now_ms() - bindparam("silence_ms")).order_by(Worker.name)


def alive(session: Session, *, silence_ms: int = ALIVE_MS) -> Sequence[Worker]:
    """The workers that were seen within so many milliseconds, by name."""
    return session.scalars(_ALIVE, {"silence_ms": silence_ms}).all()


def served_handoffs(session: Session) -> set[str]:
    """Encode queues of the hand-offs that a live worker can read."""
    return {queue for worker in alive(session) for queue in worker.queues if is_encode_queue(queue)}


def capacity(session: Session) -> Capacity:
    """Live slots and memory, by queue."""
    total = Capacity()
    for worker in alive(session):
        if worker.draining:
            continue
        for queue in worker.queues:
            total.slots[queue] = total.slots.get(queue, 0) + worker.slots
            sizes = [m for m in (total.memory.get(queue), worker.memory_bytes) if m is not None]
            total.memory[queue] = max(sizes) if sizes else None
    return total


def now(session: Session) -> int:
    """The database's clock (ms), by which workers are judged."""
    return session.scalars(select(now_ms())).one()
