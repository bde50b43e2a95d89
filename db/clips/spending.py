"""GPU time and cost of a batch: charged when an attempt on a GPU ends, and recomputed from the attempts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Float, bindparam, cast, func, literal, or_, select, update
from sqlalchemy.orm import Session

from db import events, quotas
from db.clips.attempts import attempts_of
from db.models import Batch, Reservation
from db.session import now_ms
from pipeline.policy.routes import GPU_QUEUES, gpu_type_of

HOUR_MS = 3_600_000


def limited() -> ColumnElement[bool]:
    """The batch has a budget."""
    return or_(Batch.max_gpu_ms.is_not(None), Batch.max_cost.is_not(None))


def _used_up() -> ColumnElement[bool]:
    return func.coalesce(or_(Batch.gpu_ms >= Batch.max_gpu_ms, Batch.cost >= Batch.max_cost), False)


_PRICES = select(Batch.prices).where(Batch.id == bindparam("p_batch_id"), or_(limited(), quotas.counts_gpu_time()))


def charge(session: Session, batch_id: str, queue: str | None, started_at: int) -> None:
    """Count an attempt on a GPU's queue that has just ended, in the transaction that ends it.

    Nothing is locked for a batch without a budget, unless the GPU time of its key is limited. The one attempt that uses
    a budget up records ``budget_reached``.
    """
    if type_of(queue) is None:
        return
    row = session.connection().execute(_PRICES, {"p_batch_id": batch_id}).one_or_none()
    if row is None:
        return
    _add(session, batch_id, queue, now_ms() - started_at, row.prices)


def charge_idle(session: Session, batch_id: str, queue: str, idle_ms: int) -> None:
    """Count time in which a GPU was reserved for the batch's session and made nothing."""
    row = session.connection().execute(_PRICES, {"p_batch_id": batch_id}).one_or_none()
    if row is not None and idle_ms > 0:
        _add(session, batch_id, queue, literal(idle_ms), row.prices)


def _add(
    session: Session, batch_id: str, queue: str | None, used: ColumnElement[int], prices: Mapping[str, float] | None
) -> None:
    session.execute(
        update(Batch)
        .where(Batch.id == batch_id)
        .values(
            gpu_ms=Batch.gpu_ms + used, cost=Batch.cost + cast(used, Float) * (price_of(queue, prices) or 0.0) / HOUR_MS
        )
        .execution_options(synchronize_session=False)
    )
    reached = session.execute(
        update(Batch)
        .where(Batch.id == batch_id, ~Batch.over_budget, _used_up())
        .values(over_budget=True)
        .returning(Batch.gpu_ms, Batch.cost, Batch.max_gpu_ms, Batch.max_cost)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if reached is not None:
        events.record(session, "budget_reached", batch_id=batch_id, **reached._mapping)


def type_of(queue: str | None) -> str | None:
    """The GPU type of a queue; None where it has none."""
    gpu_type = gpu_type_of(queue) if queue else None
    return gpu_type.partition(".")[0] if gpu_type else None


def price_of(queue: str | None, prices: Mapping[str, float] | None) -> float | None:
    """The price of an hour on that queue's GPU type; None where it has none."""
    return (prices or {}).get(type_of(queue) or "")


@dataclass(frozen=True, slots=True)
class Usage:
    """GPU time of a batch's ended attempts on GPUs: its clips' and its evaluation runs'."""

    gpu_ms: int
    cost: float | None
    """The cost; None when a GPU type that it ran on has no price."""


def usage(session: Session, batch_id: str, prices: Mapping[str, float]) -> Usage:
    """Counted from the attempts' rows, and the time in which a GPU that was reserved for its session made nothing."""
    runs = attempts_of(batch_id)
    rows = session.execute(
        select(runs.c.queue, func.sum(runs.c.ended_at - runs.c.started_at).label("ms"))
        .where(runs.c.queue.startswith(GPU_QUEUES))
        .group_by(runs.c.queue)
    ).all()
    idle = session.execute(
        select(Reservation.queue, Reservation.idle_ms.label("ms")).where(
            Reservation.batch_id == batch_id, Reservation.idle_ms > 0
        )
    ).all()
    costs = [(price_of(row.queue, prices), int(row.ms)) for row in (*rows, *idle)]
    priced = [price * ms / HOUR_MS for price, ms in costs if price is not None]
    return Usage(sum(ms for _, ms in costs), sum(priced) if len(priced) == len(costs) and prices else None)
