"""The queries that run every second read indexes, however many steps there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, event, text, update
from sqlalchemy.orm import Session

from db.models import Step
from db.queue import recovery
from db.scheduling import capacity, dispatch, placement
from db.session import Database
from pipeline.policy.routes import preset_queue
from pipeline.presets import all_presets
from pipeline.states import Stage, StepState
from tests.unit.db.line import Line


def _plans(database: Database, work: Callable[[Session], Any]) -> list[str]:
    """The plan of every SELECT that the work runs on steps."""
    asked: list[tuple[str, Any]] = []

    def listen(_: Connection, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if statement.startswith("SELECT") and "FROM steps" in statement:
            asked.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", listen)
    try:
        with database.transaction() as session:
            work(session)
    finally:
        event.remove(database.engine, "before_cursor_execute", listen)
    plans = []
    with database.transaction() as session:
        for statement, parameters in asked:
            explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
            rows = session.connection().exec_driver_sql(explain + statement, parameters)
            plans.append("\n".join(str(row[-1]) for row in rows))
    return plans


@pytest.mark.parametrize(
    "work",
    [
        lambda session: dispatch.dispatch_waiting(session, window=4),
        capacity.in_flight,
        recovery.end_leases,
        lambda session: recovery.dispatched_counts(session, older_than_ms=0),
        lambda session: recovery.redispatch(session, ["vgen.cpu"], older_than_ms=9_000_000),
        lambda session: recovery.rewind_lost_handoffs(session, gone_ms=9_000_000),
    ],
    ids=["admit", "in_flight", "end_leases", "dispatched_counts", "redispatch", "rewind_lost_handoffs"],
)
def test_no_query_reads_every_step(database: Database, work: Callable[[Session], Any]) -> None:
    line = Line(database)
    line.submit(count=3_000)
    line.admit(window=5)
    if not database.is_sqlite:
        with database.transaction() as session:
            session.execute(text("ANALYZE"))

    plans = _plans(database, work)

    assert plans
    for plan in plans:
        assert "Seq Scan on steps" not in plan
        assert "SCAN steps" not in plan or "USING INDEX" in plan or "USING COVERING INDEX" in plan, plan


@pytest.mark.breaks_rules  # clips that no stage has been before
@pytest.mark.parametrize(
    "work",
    [
        lambda session: dispatch.dispatch_waiting(session, window=4),
        lambda session: placement.planned(session, all_presets(), affinity_s=0),
        placement.withdraw_unserved,
        capacity.gpu_capacity,
    ],
    ids=["admit", "planned", "withdraw_unserved", "gpu_capacity"],
)
def test_presets_are_assigned_and_their_queues_filled_without_reading_what_waits(
    database: Database, work: Callable[[Session], Any]
) -> None:
    # Given thousands of clips of one preset in front of a few of another
    line = Line(database)
    line.worker(preset_queue("cpu", "tiny-wan"), name="a")
    line.worker(preset_queue("gone", "idle"), name="b", draining=True)
    line.submit(count=3_000)
    with database.transaction() as session:
        waiting = update(Step).where(Step.state == StepState.WAITING).values(stage=Stage.GENERATE, need="idle")
        session.execute(waiting)
        session.execute(update(Step).where(Step.id > 2_900).values(need="tiny-wan"))
        left = {"state": StepState.DISPATCHED, "queue": preset_queue("gone", "idle"), "dispatched_at": 1}
        session.execute(update(Step).where(Step.id < 3).values(**left))
    with database.transaction() as session:
        session.execute(text("ANALYZE"))

    plans = _plans(database, work)

    assert plans
    for plan in plans:
        assert "Seq Scan on steps" not in plan, plan
        assert "SCAN steps" not in plan or "USING INDEX ix_steps_live" in plan or "COVERING INDEX ix_steps_live" in plan
        assert "TEMP B-TREE FOR ORDER BY" not in plan or "ix_steps_live" in plan, plan
