"""When a worker is taken for deaf: only where rows say that there is work, and it is idle and hears nothing."""

from __future__ import annotations

import signal
import time

from sqlalchemy import select

from db.models import Event
from db.session import Database
from pipeline.policy.routes import CPU_QUEUE
from tasks.worker.watchdog import OVERDUE_MS, Watchdog
from tests.unit.db.line import Line


def watchdog(database: Database, ended: list[int], *, queue: str = CPU_QUEUE, busy: bool = False) -> Watchdog:
    return Watchdog(
        database,
        name="w1",
        queues=lambda: [queue],
        busy=lambda: busy,
        stopping=lambda: None,
        silence_s=0.05,
        end=ended.append,
    )


def test_a_deaf_worker_is_ended_once_and_that_is_recorded(sqlite_database: Database) -> None:
    line, ended = Line(sqlite_database), list[int]()
    line.submit(count=1)
    line.admit()
    deaf, busy, other = (
        watchdog(sqlite_database, ended),
        watchdog(sqlite_database, ended, busy=True),
        watchdog(sqlite_database, ended, queue="vgen.io"),
    )

    for _ in range(2):  # what was just sent may still be on its way
        time.sleep(0.06)
        deaf.poll()
    assert ended == []
    line.age_dispatch(OVERDUE_MS + 1)
    time.sleep(0.06)
    deaf.heard()
    for each in (deaf, busy, other):
        each.poll()
    assert ended == []
    time.sleep(0.06)
    for each in (deaf, busy, other, deaf):
        each.poll()

    assert ended == [signal.SIGTERM]
    with sqlite_database.reading() as session:
        assert session.scalars(select(Event.kind).where(Event.kind == "worker_restarted")).all() == ["worker_restarted"]
