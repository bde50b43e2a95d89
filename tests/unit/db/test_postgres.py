"""PostgreSQL behind a pooler that keeps nothing of a session, and databases in encodings that vgen cannot use."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from db import invariants, postgres, schema
from db.reading import history
from db.session import Database
from pipeline.errors import ServiceUnavailableError
from pipeline.settings import current_settings
from pipeline.states import JobState
from tests.servers import SUPERUSER, Server, answers, free_port
from tests.transaction_pooler import transaction_pooler
from tests.unit.cli.conftest import Vgen, vgen
from tests.unit.db.line import Line

__all__ = ["vgen"]

_OF_A_SESSION = re.compile(
    r"\A\s*(SET\s+(?!LOCAL\b|TRANSACTION\b)|RESET\b|LISTEN\b|PREPARE\b|DISCARD\b|LOAD\b|CREATE\s+(LOCAL\s+)?TEMP)"
    r"|pg_(try_)?advisory_lock|set_config\([^)]*false\)|WITH\s+HOLD",
    re.IGNORECASE,
)
"""Statements whose effect outlives their transaction in the session."""


def through(url: str, port: int) -> str:
    """The same database by another port."""
    return re.sub(r"@127\.0\.0\.1:\d+/", f"@127.0.0.1:{port}/", url)


def work(database: Database) -> None:
    """What the line does with its rows: upgrade, submit, work off, look at, in several threads at once."""
    schema.upgrade(database)
    line = Line(database)
    batch_id = line.submit(count=6)
    ids = [f"{batch_id}-{number:06}" for number in range(6)]
    line.worker()
    over = threading.Event()

    def look() -> int:
        looks = 0
        while not over.is_set():
            assert {line.job(job_id).batch_id for job_id in ids} == {batch_id}
            with database.reading(one_instant=True) as session:
                assert list(history.entries(session, batch_id=batch_id))
            looks += 1
        return looks

    with ThreadPoolExecutor() as threads:
        lookers = [threads.submit(look) for _ in range(3)]
        try:
            for job_id in ids:
                line.finish_job(job_id)
        finally:
            over.set()
        assert all(looker.result() for looker in lookers)
    with database.reading(one_instant=True) as session:
        assert len(list(history.entries(session, batch_id=batch_id))) > len(ids)
    assert {line.job(job_id).state for job_id in ids} == {JobState.SUCCEEDED}
    assert invariants.violations(database) == []
    assert schema.check(database) == []


def test_the_line_works_where_each_transaction_has_another_connection(
    postgres_server: Server, postgres_url: str
) -> None:
    with transaction_pooler(postgres_server.port) as pooler:
        database = Database(through(postgres_url, pooler.port))
        try:
            work(database)
            assert database.is_pooled
        finally:
            database.close()

        assert len(pooler.statements) > 300
        assert pooler.prepared == []
        assert [statement for statement in pooler.statements if _OF_A_SESSION.search(statement)] == []


@pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="pgbouncer is not installed")
def test_the_line_works_behind_pgbouncer(postgres_server: Server, postgres_url: str, tmp_path: Path) -> None:
    with pgbouncer(tmp_path, postgres_server.port) as port:
        database = Database(through(postgres_url, port))
        try:
            work(database)
            assert database.is_pooled
        finally:
            database.close()


@contextmanager
def pgbouncer(folder: Path, upstream: int) -> Iterator[int]:
    """A PgBouncer in transaction mode; its port."""
    port, user = free_port(), ["-u", "nobody"] if os.geteuid() == 0 else []
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={upstream} user={SUPERUSER}\n"
        f"[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\nauth_type=any\npool_mode=transaction\n"
        "default_pool_size=3\nunix_socket_dir=\n",
        "utf-8",
    )
    process = subprocess.Popen(
        ["pgbouncer", "-q", *user, str(folder / "pgbouncer.ini")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 20
        while not answers(port):
            assert time.monotonic() < end, "pgbouncer did not start"
            time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


def test_a_server_without_a_pooler_prepares_statements(postgres_database: Database) -> None:
    assert not postgres_database.is_pooled
    for _ in range(8):  # psycopg prepares what it has seen five times
        with postgres_database.transaction() as session:
            session.execute(text("SELECT count(*) FROM queues"))
    with postgres_database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM pg_prepared_statements")) > 0


def test_behind_a_pooler_too_a_frozen_process_holds_no_row_for_long(
    postgres_server: Server, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_FROZEN_MS", 200)
    with transaction_pooler(postgres_server.port) as pooler:
        frozen, awake = Database(through(postgres_url, pooler.port)), Database(through(postgres_url, pooler.port))
        with awake.transaction() as session:
            session.execute(text("CREATE TABLE things (id int)"))
            session.execute(text("INSERT INTO things VALUES (1)"))
        change = text("UPDATE things SET id = id + 1")

        with pytest.raises(ServiceUnavailableError), frozen.transaction() as its:  # noqa: PT012
            its.execute(change)
            with awake.transaction() as session:
                session.execute(change)
            its.execute(change)

        with awake.reading() as session:
            assert session.execute(text("SELECT id FROM things")).scalar_one() == 2
        frozen.close()
        awake.close()


def test_doctor_says_that_a_pooler_stands_between_and_whether_dispatchers_hear_past_it(
    postgres_server: Server, postgres_url: str, vgen: Vgen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(url: str) -> tuple[str, str]:
        monkeypatch.setenv("VGEN_DATABASE_URL", url)
        checks = {check["name"]: check for check in vgen("doctor", "--json").json["checks"]}
        return checks["database"]["message"], checks["wake-up"]["result"]

    message, wake_up = told(postgres_url)
    assert ("pooler" in message, wake_up) == (False, "ok")
    with transaction_pooler(postgres_server.port) as pooler:
        message, wake_up = told(through(postgres_url, pooler.port))
        assert ("a pooler such as PgBouncer" in message, wake_up) == (True, "warn")
        monkeypatch.setenv("VGEN_DATABASE_LISTEN_URL", postgres_url)
        assert told(through(postgres_url, pooler.port))[1] == "ok"
        monkeypatch.setenv("VGEN_DATABASE_LISTEN_URL", "sqlite:///x")
        outcome = vgen("doctor")
        assert outcome.code != 0
        assert "VGEN_DATABASE_LISTEN_URL: not a URL of PostgreSQL" in outcome.out


# Encodings


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def encoded_url(request: pytest.FixtureRequest, postgres_server: Server) -> Iterator[str]:
    """A database in another encoding than UTF-8."""
    name = f"in_{request.param.lower()}"
    with psycopg.connect(
        f"postgresql://{SUPERUSER}@127.0.0.1:{postgres_server.port}/postgres", autocommit=True
    ) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING '{request.param}' TEMPLATE template0 LOCALE 'C'".encode())
        yield f"postgresql+psycopg://{SUPERUSER}@127.0.0.1:{postgres_server.port}/{name}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def test_a_database_in_another_encoding_is_refused_by_all_who_open_it(
    encoded_url: str, vgen: Vgen, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding = encoded_url.rpartition("in_")[2].upper()
    monkeypatch.setenv("VGEN_DATABASE_URL", encoded_url)
    monkeypatch.setenv("VGEN_BROKER_URL", "redis://127.0.0.1:1/0")
    current_settings.cache_clear()

    for command in (["db", "upgrade"], ["worker"], ["dispatcher"], ["status"]):
        outcome = vgen(*command)
        assert (outcome.code, command) == (2, command)
        assert f"is encoded in {encoding}" in outcome.err
        assert "VGEN_DATABASE_URL" in outcome.err
    checks = vgen("doctor", "--json").json["checks"]
    assert [check["result"] for check in checks if f"is encoded in {encoding}" in check["message"]] == ["fail"]


def test_what_the_environment_says_of_encodings_does_not_matter(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    database = Database(postgres_url)
    with database.reading() as session:
        assert session.scalar(text("SELECT '狐 🦊'")) == "狐 🦊"
    database.close()
