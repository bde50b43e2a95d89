"""GPU time and cost of a batch: charged as each attempt at generating ends, and added up again from the attempts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Float, bindparam, cast, func, or_, select, update
from sqlalchemy.orm import Session

from db import events
from db.models import Batch, Job, StageRun
from db.session import now_ms
from pipeline.policy.routes import gpu_type_of
from pipeline.states import Stage

HOUR_MS = 3_600_000


def limited() -> ColumnElement[bool]:
    """The batch has a budget."""
    return or_(Batch.max_gpu_ms.is_not(None), Batch.max_cost.is_not(None))


def _used_up() -> ColumnElement[bool]:
    return func.coalesce(or_(Batch.gpu_ms >= Batch.max_gpu_ms, Batch.cost >= Batch.max_cost), False)


_OWNER = (
    select(Batch.id, Batch.prices).join(Job, Job.batch_id == Batch.id).where(Job.id == bindparam("p_job_id"), limited())
)


def charge(session: Session, *, job_id: str, queue: str | None, started_at: int) -> None:
    """Count an attempt at generating that has just ended, in the transaction that ends it.

    Nothing is locked for a batch without a budget. The one attempt that uses it up records ``budget_reached``.
    """
    row = session.connection().execute(_OWNER, {"p_job_id": job_id}).one_or_none()
    if row is None:
        return
    used = now_ms() - started_at
    session.execute(
        update(Batch)
        .where(Batch.id == row.id)
        .values(
            gpu_ms=Batch.gpu_ms + used,
            cost=Batch.cost + cast(used, Float) * (price_of(queue, row.prices) or 0.0) / HOUR_MS,
        )
        .execution_options(synchronize_session=False)
    )
    reached = session.execute(
        update(Batch)
        .where(Batch.id == row.id, ~Batch.over_budget, _used_up())
        .values(over_budget=True)
        .returning(Batch.gpu_ms, Batch.cost, Batch.max_gpu_ms, Batch.max_cost)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if reached is not None:
        events.record(session, "budget_reached", batch_id=row.id, **reached._mapping)


def type_of(queue: str | None) -> str | None:
    """The GPU type of a queue; None where it has none."""
    gpu_type = gpu_type_of(queue) if queue else None
    return gpu_type.partition(".")[0] if gpu_type else None


def price_of(queue: str | None, prices: Mapping[str, float] | None) -> float | None:
    """The price of an hour on that queue's GPU type; None where it has none."""
    return (prices or {}).get(type_of(queue) or "")


@dataclass(frozen=True, slots=True)
class Usage:
    """GPU time of a batch's ended attempts at generating."""

    gpu_ms: int
    cost: float | None
    """The cost; None when a GPU type that it ran on has no price."""


def usage(session: Session, batch_id: str, prices: Mapping[str, float]) -> Usage:
    """Counted from the attempts' rows."""
    rows = session.execute(
        select(StageRun.queue, func.sum(StageRun.ended_at - StageRun.started_at).label("ms"))
        .join(Job, Job.id == StageRun.job_id)
        .where(Job.batch_id == batch_id, StageRun.stage == Stage.GENERATE)
        .group_by(StageRun.queue)
    ).all()
    costs = [(price_of(row.queue, prices), int(row.ms)) for row in rows]
    priced = [price * ms / HOUR_MS for price, ms in costs if price is not None]
    return Usage(sum(ms for _, ms in costs), sum(priced) if len(priced) == len(costs) and prices else None)
