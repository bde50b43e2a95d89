"""`vgen health`: what rows say of this host's processes."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import update

from db import workers
from db.models import Worker
from db.session import Database
from db.workers import WorkerReport
from pipeline.settings import Settings
from tasks.hosts import dispatcher
from tasks.upkeep import timers
from tests.unit.cli.conftest import Home, Vgen

ALL = ("gpu0", "cpu", "io")


@pytest.fixture
def database(home: Home) -> Iterator[Database]:
    database = home.database()
    yield database
    database.close()


def report(database: Database, *roles: str, host: str | None = None) -> None:
    host = host or socket.gethostname()
    with database.transaction() as session:
        for role in roles:
            name = f"{role}-7@{host}"
            workers.report(session, WorkerReport(name=name, host=host, pid=os.getpid(), queues=["vgen.io"]))


def test_nothing_reported_is_not_healthy_and_each_missing_role_is_named(home: Home, vgen: Vgen) -> None:
    outcome = vgen("health", "worker")

    assert outcome.code == 1
    assert [role for role in ALL if f"{role}: not seen on" in outcome.err] == list(ALL)


def test_every_role_seen_is_healthy(database: Database, vgen: Vgen) -> None:
    report(database, *ALL)

    outcome = vgen("health", "worker")

    assert (outcome.code, outcome.err) == (0, "")
    assert "gpu0, cpu, io" in outcome.out


def test_only_the_roles_that_the_options_name_are_asked_for(database: Database, vgen: Vgen) -> None:
    report(database, "cpu", "io")

    assert vgen("health", "worker", "--no-gpu").code == 0
    assert vgen("health", "worker", "--no-io").code == 1


def test_workers_of_another_host_do_not_count(database: Database, vgen: Vgen) -> None:
    report(database, *ALL, host="elsewhere")

    assert vgen("health", "worker").code == 1


def test_a_worker_that_fell_silent_is_not_healthy(database: Database, vgen: Vgen) -> None:
    # Given three workers, one of which was seen 31 s ago
    report(database, *ALL)
    with database.transaction() as session:
        session.execute(update(Worker).where(Worker.name.startswith("gpu0-")).values(seen_at=Worker.seen_at - 31_000))

    outcome = vgen("health", "worker")

    assert outcome.code == 1
    assert "gpu0" in outcome.err
    assert "io" not in outcome.err.split("not seen")[0]


def test_a_database_that_is_away_ends_with_4(vgen: Vgen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_DATABASE_URL", "postgresql+psycopg://vgen:x@127.0.0.1:1/vgen")

    assert vgen("health", "dispatcher").code == 4


def test_a_dispatcher_is_seen_while_it_dispatches_and_signs_off(home: Home, vgen: Vgen) -> None:
    # Given a dispatcher at work on the home's database
    stop = threading.Event()
    thread = threading.Thread(target=dispatcher.run_dispatcher, args=(home.settings, stop))
    assert vgen("health", "dispatcher").code == 1
    thread.start()
    try:
        give_up = time.monotonic() + 30
        while (outcome := vgen("health", "dispatcher")).code != 0:
            assert time.monotonic() < give_up, outcome.err
            time.sleep(0.05)
    finally:
        # When it stops
        stop.set()
        thread.join(30)

    # Then it is gone at once
    assert vgen("health", "dispatcher").code == 1


def test_a_dispatcher_that_no_longer_dispatches_is_not_reported(
    home: Home, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a dispatcher whose dispatching hangs, and a second as the time after which that counts
    reports: list[float] = []
    hangs, real_report = threading.Event(), workers.report

    def counted(*arguments: object) -> None:
        reports.append(time.monotonic())
        real_report(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(timers.Dispatcher, "poll", lambda _: hangs.wait(60))
    monkeypatch.setattr(timers, "REPORT_S", 0.1)
    monkeypatch.setattr(workers, "ALIVE_MS", 1000)
    monkeypatch.setattr(workers, "report", counted)
    settings = Settings(home=home.settings.home)
    stop = threading.Event()
    thread = threading.Thread(target=dispatcher.run_dispatcher, args=(settings, stop))

    # When it runs for more than two seconds after its first report
    thread.start()
    try:
        give_up = time.monotonic() + 30
        while not reports:
            assert time.monotonic() < give_up, "it never reported itself"
            time.sleep(0.02)
        time.sleep(2.5)
    finally:
        hangs.set()
        stop.set()
        thread.join(30)

    # Then it reported itself during the first second only
    assert max(reports) - min(reports) < 2
