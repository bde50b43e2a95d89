"""Dispatchers are woken by what is committed, and by nothing else; no commit waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy.orm import Session

from db.clips import cancel_retry_approve, jobs
from db.clips.batches import Limits
from db.listen import Listener, hears
from db.notify import CHANNEL, Notifier, wake_dispatcher
from db.queue import outcomes, pauses
from db.scheduling import budgets, worker_presets
from db.session import Database
from pipeline.errors import CrashError, NotFoundError, ServiceUnavailableError, SettingsError
from pipeline.policy.routes import CPU_QUEUE
from pipeline.states import Stage
from pipeline.work import Outcome
from tests.servers import Server, free_port
from tests.transaction_pooler import transaction_pooler
from tests.unit.db.line import Line, result_of
from tests.unit.db.test_postgres import through

SOON_S = 5.0


@contextmanager
def listening(database: Database, url: str | None = None) -> Iterator[threading.Event]:
    """What a dispatcher's process hears, from the moment that it does."""
    woken = database.notifier.woken
    woken.clear()
    listener = Listener(database, url)
    listener.start()
    try:
        assert woken.wait(SOON_S), "it never heard itself"
        woken.clear()
        yield woken
    finally:
        listener.end()
        listener.join(SOON_S)


@contextmanager
def notices(url: str) -> Iterator[Callable[[], int]]:
    """How many notices a second connection hears, until none comes for a while."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"LISTEN {CHANNEL}")
        yield lambda: sum(1 for _ in connection.notifies(timeout=0.5))


def url_of(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False)


def leave_waiting(database: Database, **when: int) -> None:
    with database.transaction() as session:
        wake_dispatcher(session, **when)


def test_a_commit_that_leaves_steps_waiting_wakes_who_listens(postgres_database: Database) -> None:
    with listening(postgres_database) as woken:
        Line(postgres_database).submit(count=1)

        assert woken.wait(SOON_S)


def test_what_is_rolled_back_or_only_read_wakes_nobody(database: Database) -> None:
    line = Line(database)
    line.worker()
    woken = database.notifier.woken
    woken.clear()

    with pytest.raises(NotFoundError), database.transaction() as session:
        _wake_and_fail(session)
    line.steps("nothing")

    assert database.notifier._due == []
    assert not woken.is_set()


def _wake_and_fail(session: Session) -> None:
    wake_dispatcher(session)
    jobs.lock(session, "nothing")


def test_many_commits_are_told_by_few_notices(postgres_database: Database) -> None:
    with notices(url_of(postgres_database)) as count:
        started = time.monotonic()
        for _ in range(300):
            postgres_database.notifier.notify()
            time.sleep(0.001)
        at_most = (time.monotonic() - started) / 0.02 + 2

        assert 2 <= count() <= at_most


def test_no_commit_waits_for_a_notice(sqlite_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    sent, may_end = threading.Event(), threading.Event()

    def send(payload: str = "") -> None:
        sent.set()
        assert may_end.wait(SOON_S)

    monkeypatch.setattr(sqlite_database.notifier, "send", send)

    leave_waiting(sqlite_database)  # returns although the notice is under way

    assert sent.wait(SOON_S)
    assert not may_end.is_set()
    may_end.set()
    sqlite_database.notifier.close()


def test_a_process_that_ends_sends_what_is_due(postgres_database: Database) -> None:
    with notices(url_of(postgres_database)) as count:
        command = Database(url_of(postgres_database))
        leave_waiting(command)
        command.close()

        assert count() == 1


def test_a_notice_that_cannot_be_sent_is_let_go(postgres_database: Database) -> None:
    away = Database(f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/nothing")
    away.notifier.notify()
    away.close()


def test_a_notice_that_takes_long_ends_its_thread_after_the_database_was_closed(sqlite_database: Database) -> None:
    notifier, begun, may_end = Notifier(sqlite_database.engine), threading.Event(), threading.Event()
    threads = list[threading.Thread]()

    def send(payload: str = "") -> None:
        threads.append(threading.current_thread())
        begun.set()
        may_end.wait(SOON_S)

    notifier.send = send  # type: ignore[method-assign]
    notifier.notify()
    assert begun.wait(SOON_S)

    notifier.close()
    notifier.notify()  # another thread's by now
    may_end.set()

    threads[0].join(SOON_S)
    assert not threads[0].is_alive()
    notifier.close()


@pytest.mark.parametrize("after_ms", [0, 300])
def test_dispatchers_are_woken_when_a_backoff_is_over(database: Database, after_ms: int) -> None:
    notifier = Notifier(database.engine)
    sent = list[float]()
    notifier.send = lambda payload="": sent.append(time.monotonic())  # type: ignore[method-assign]
    started = time.monotonic()

    notifier.notify(after_s=after_ms / 1000)
    notifier.notify(after_s=60)

    while not sent and time.monotonic() < started + SOON_S:
        time.sleep(0.005)
    assert sent[0] - started >= after_ms / 1000
    notifier.close()
    assert len(sent) == 1


def _wakes(database: Database, move: Callable[[], Any]) -> set[int]:
    """How many milliseconds after the move's commit dispatchers are woken."""
    asked = set[int]()
    original = database.notifier.notify
    database.notifier.notify = lambda *, after_s=0.0: asked.add(int(after_s * 1000))  # type: ignore[method-assign]
    try:
        move()
    finally:
        database.notifier.notify = original  # type: ignore[method-assign]
    return asked


def test_all_that_leaves_steps_waiting_wakes_dispatchers(sqlite_database: Database) -> None:
    line = Line(sqlite_database)

    def move(function: Callable[..., Any], *arguments: Any, **options: Any) -> set[int]:
        def once() -> None:
            with sqlite_database.transaction() as session:
                function(session, *arguments, **options)

        return _wakes(sqlite_database, once)

    assert _wakes(sqlite_database, lambda: line.submit(count=1)) == {0}
    batch_id, job_id, screening = line.bring_to(Stage.SCREEN)
    assert _wakes(sqlite_database, lambda: line.finish(screening, result_of(screening, Outcome.HELD))) == set()
    assert move(cancel_retry_approve.approve, job_id, by="ada") == {0}
    assert move(outcomes.fail, line.go_on(job_id, Stage.GENERATE), CrashError("died")) - {0}
    assert move(outcomes.release, line.go_on(job_id, Stage.GENERATE), delay_ms=70) == {0, 70}
    generating = line.go_on(job_id, Stage.GENERATE)
    assert _wakes(sqlite_database, lambda: line.finish(generating)) == {0}  # its GPU is free
    encoding = line.go_on(job_id, Stage.ENCODE)
    assert move(outcomes.rewind, encoding, to=Stage.GENERATE, reason="gone") == {0}
    generating = line.go_on(job_id, Stage.GENERATE)
    assert _wakes(sqlite_database, lambda: line.finish(generating)) == {0}
    encoding = line.go_on(job_id, Stage.ENCODE)
    assert _wakes(sqlite_database, lambda: line.finish(encoding)) == set()
    assert move(pauses.pause_batch, batch_id, by="ada") == {0}
    assert move(pauses.resume_batch, batch_id, by="ada") == {0}
    move(pauses.pause_queue, CPU_QUEUE, by="ada")
    assert move(pauses.resume_queue, CPU_QUEUE, by="ada") == {0}
    move(cancel_retry_approve.cancel, job_id)
    assert move(cancel_retry_approve.retry, job_id) == {0}
    assert move(worker_presets.set_loaded, "w1", "idle") == {0}
    limits = {"max_gpu_ms": 1, "max_cost": None, "prices": Limits().prices, "by": "ada"}
    assert move(budgets.set_limits, batch_id, **limits) == {0}


def test_behind_a_pooler_nothing_is_heard_but_by_a_direct_url(postgres_server: Server, postgres_url: str) -> None:
    with transaction_pooler(postgres_server.port) as pooler:
        pooled = Database(through(postgres_url, pooler.port))
        try:
            assert not hears(pooled, None)
            assert hears(pooled, postgres_url)
            with listening(pooled, postgres_url) as woken:
                leave_waiting(pooled)

                assert woken.wait(SOON_S)
        finally:
            pooled.close()


def test_a_listening_url_that_is_wrong_is_told_by_its_name(postgres_database: Database) -> None:
    for wrong in ("sqlite:///x", "postgresql+other://x/y"):
        with pytest.raises(SettingsError, match=r"^VGEN_DATABASE_LISTEN_URL: "):
            hears(postgres_database, wrong)
    with pytest.raises(ServiceUnavailableError, match="cannot listen"):
        hears(postgres_database, f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/nothing")
