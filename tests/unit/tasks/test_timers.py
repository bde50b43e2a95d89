"""Timers that are woken, and the dispatcher among them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import func, select

from db.models import Step
from db.scheduling import dispatch
from db.session import Database
from pipeline.settings import load_settings
from pipeline.states import StepState
from tasks.app import make_app
from tasks.upkeep.timers import Timers, _Pace, _Timer
from tests.unit.db.line import Line

SOON_S = 5.0
_SELDOM_S = 60.0


def test_a_timer_that_is_woken_works_before_its_time() -> None:
    woken, worked = threading.Event(), threading.Semaphore(0)
    timer = _Timer("t", _SELDOM_S, worked.release, woken=woken)
    timer.start()

    assert worked.acquire(timeout=SOON_S)
    assert not worked.acquire(timeout=0.1)
    woken.set()
    assert worked.acquire(timeout=SOON_S)
    timer.end()
    timer.join(SOON_S)
    assert not timer.is_alive()


def test_a_timer_that_is_ended_as_it_begins_to_work_ends() -> None:
    class Late(threading.Event):
        """Is cleared right after the timer was ended."""

        def clear(self) -> None:
            timer.end()
            super().clear()

    timer = _Timer("t", _SELDOM_S, lambda: None, woken=Late())
    timer.start()

    timer.join(SOON_S)
    assert not timer.is_alive()


def test_a_timer_that_is_woken_all_the_time_rests_in_between() -> None:
    pace = _Pace()

    burst = [pace.rest_after(0.05) for _ in range(4)]
    afterwards = [pace.rest_after(0.05) for _ in range(2)]

    assert burst == [0.0] * 4
    assert 0.35 < afterwards[0] <= 0.5
    assert 0.85 < afterwards[1] <= 1.0


@contextmanager
def dispatching(database: Database) -> Iterator[None]:
    """A dispatcher that polls once a minute, and is at work."""
    settings = load_settings(worker={"dispatch_s": _SELDOM_S})
    timers = Timers(make_app(), settings, dispatch=True, database=database)
    database.notifier.woken.clear()
    timers.start()
    try:
        assert database.is_sqlite or database.notifier.woken.wait(SOON_S), "it never heard itself"
        time.sleep(0.3)  # its first polls
        yield
    finally:
        timers.stop()


def _sent(database: Database) -> int:
    with database.reading() as session:
        return session.scalars(select(func.count()).where(Step.state == StepState.DISPATCHED)).one()


def _is_sent_soon(database: Database) -> bool:
    until = time.monotonic() + SOON_S
    while not _sent(database) and time.monotonic() < until:
        time.sleep(0.01)
    return bool(_sent(database))


def test_what_is_submitted_is_dispatched_before_the_next_poll(database: Database) -> None:
    with dispatching(database):
        Line(database).submit(count=1)

        assert _is_sent_soon(database)


def test_a_dispatcher_that_found_another_at_work_looks_again(postgres_database: Database) -> None:
    other = Database(postgres_database.engine.url.render_as_string(hide_password=False))
    with dispatching(postgres_database):
        with other.transaction() as session:
            assert dispatch.dispatch_waiting(session, window=1) == []
            Line(postgres_database).submit(count=1)
            time.sleep(0.3)
            assert _sent(postgres_database) == 0

        assert _is_sent_soon(postgres_database)
    other.close()


def test_an_error_that_repeats_is_logged_once_and_another_at_once(caplog: pytest.LogCaptureFixture) -> None:
    timer = _Timer("t", _SELDOM_S, lambda: None)

    for error in (OSError(28, "no space"), OSError(28, "no space"), OSError(28, "no space"), ValueError("a bug")):
        timer._tell(error)

    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["[Errno 28] no space", "a bug"]
