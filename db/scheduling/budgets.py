"""Budgets of GPU time and cost: what a batch has used and uses now, and when its dispatch stops.

A budget counts the time of every ended attempt at generating, whatever came of it. What is in flight is counted by
estimate before more is dispatched, so that a batch goes over by no more than the clips that were in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import events
from db.clips.spending import HOUR_MS, limited, type_of, usage
from db.models import LIVE_INDEX, Batch, Step
from db.notify import wake_dispatcher
from db.session import now_ms
from pipeline.policy.routes import GpuCapacity
from pipeline.states import Stage, StepState


def set_limits(
    session: Session,
    batch_id: str,
    *,
    max_gpu_ms: int | None,
    max_cost: float | None,
    prices: Mapping[str, float],
    by: str,
) -> None:
    """Give the batch this budget, or none; the prices of now are kept with it.

    A batch that had none so far is charged for what it has used already.
    """
    batch = session.scalars(
        select(Batch).where(Batch.id == batch_id).with_for_update().execution_options(populate_existing=True)
    ).one()
    if batch.max_gpu_ms is None and batch.max_cost is None:
        used = usage(session, batch_id, prices)
        batch.gpu_ms, batch.cost = used.gpu_ms, used.cost or 0.0
    batch.max_gpu_ms, batch.max_cost, batch.prices = max_gpu_ms, max_cost, dict(prices)
    batch.over_budget = (max_gpu_ms is not None and batch.gpu_ms >= max_gpu_ms) or (
        max_cost is not None and batch.cost >= max_cost
    )
    session.flush()
    wake_dispatcher(session)
    events.record(session, "budget_set", batch_id=batch_id, by=by, max_gpu_ms=max_gpu_ms, max_cost=max_cost)


@dataclass(slots=True)
class _Left:
    gpu_ms: float | None
    cost: float | None
    prices: Mapping[str, float]

    @property
    def any(self) -> bool:
        return (self.gpu_ms is None or self.gpu_ms > 0) and (self.cost is None or self.cost > 0)


@dataclass(slots=True)
class Budgets:
    """The remaining budgets of the active batches that have one; every other batch may dispatch anything."""

    _left: dict[str, _Left] = field(default_factory=dict)

    @classmethod
    def load(cls, session: Session, lines: Callable[[], Mapping[str, GpuCapacity]]) -> Budgets:
        """``lines`` by GPU type say how long a clip takes where it has not ended yet; asked for where a budget is."""
        rows = session.scalars(select(Batch).where(Batch.active, limited())).all()
        budgets = cls(
            {
                batch.id: _Left(
                    None if batch.max_gpu_ms is None else float(batch.max_gpu_ms - batch.gpu_ms),
                    None if batch.max_cost is None else batch.max_cost - batch.cost,
                    batch.prices or {},
                )
                for batch in rows
            }
        )
        if rows:
            budgets._charge_running(session, lines())
        return budgets

    def _charge_running(self, session: Session, lines: Mapping[str, GpuCapacity]) -> None:
        running = session.execute(
            select(Step.batch_id, Step.queue, Step.state, (now_ms() - Step.started_at).label("ms")).where(
                LIVE_INDEX, Step.stage == Stage.GENERATE, Step.batch_id.in_(self._left)
            )
        )
        for batch_id, queue, state, ms in running:
            gpu_type = type_of(queue)
            if gpu_type is not None:
                self._take(batch_id, gpu_type, lines, at_least_ms=ms if state is StepState.RUNNING else 0)

    def allows(self, batch_id: str) -> bool:
        """Return whether anything of the batch may be dispatched to a GPU."""
        return batch_id not in self._left or self._left[batch_id].any

    def open_to(self, batch_id: str, lines: Mapping[str, GpuCapacity]) -> dict[str, GpuCapacity]:
        """The GPU types that the batch may use: with a limit on cost, those that have a price."""
        remaining = self._left.get(batch_id)
        if remaining is None or remaining.cost is None:
            return dict(lines)
        return {gpu_type: line for gpu_type, line in lines.items() if gpu_type in remaining.prices}

    def take(self, batch_id: str, gpu_type: str, lines: Mapping[str, GpuCapacity]) -> None:
        """Count a clip that is about to be dispatched."""
        if batch_id in self._left:
            self._take(batch_id, gpu_type, lines, at_least_ms=0)

    def _take(self, batch_id: str, gpu_type: str, lines: Mapping[str, GpuCapacity], *, at_least_ms: int) -> None:
        remaining, line = self._left[batch_id], lines.get(gpu_type)
        expected = (line.seconds_each or 0.0) * 1000 if line is not None else 0.0
        ms = max(expected, float(at_least_ms))
        if remaining.gpu_ms is not None:
            remaining.gpu_ms -= ms
        if remaining.cost is not None:
            remaining.cost -= ms * remaining.prices.get(gpu_type, 0.0) / HOUR_MS


def without_price(gpu_types: Iterable[str], prices: Mapping[str, float]) -> list[str]:
    """GPU types that a batch with a limit on cost is never dispatched to."""
    return sorted(set(gpu_types) - prices.keys())
