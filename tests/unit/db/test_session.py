"""Engines and transactions: the clock, SQLite's settings, and what an unreachable or full database says."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import select, text

from db import postgres
from db.session import Database, make_engine, now_ms
from pipeline.errors import ServiceUnavailableError, SettingsError
from tests.servers import free_port
from tests.unit.db.line import Line


def test_the_clock_is_in_milliseconds_and_moves_within_a_transaction(database: Database) -> None:
    with database.transaction() as session:
        first = session.scalars(select(now_ms())).one()
        time.sleep(0.02)
        second = session.scalars(select(now_ms())).one()

    assert abs(first - time.time() * 1000) < 60_000
    assert second >= first + 15


def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    with pytest.raises(RuntimeError, match="stop"), database.transaction() as session:  # noqa: PT012
        session.execute(text("INSERT INTO queues (name, paused) VALUES ('q', true)"))
        raise RuntimeError("stop")

    with database.reading() as session:
        assert session.execute(text("SELECT count(*) FROM queues")).scalar_one() == 0


def test_sqlite_writes_ahead_and_checks_foreign_keys(sqlite_database: Database) -> None:
    with sqlite_database.reading() as session:
        values = [
            session.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "foreign_keys", "synchronous")
        ]
    assert values == ["wal", 1, 2]


def test_reading_sqlite_does_not_wait_for_a_writer(sqlite_database: Database) -> None:
    with sqlite_database.transaction() as writer:
        writer.execute(text("INSERT INTO queues (name, paused) VALUES ('q', true)"))
        with sqlite_database.reading() as reader:
            assert reader.execute(text("SELECT count(*) FROM queues")).scalar_one() == 0


def test_who_only_reads_postgres_is_in_no_transaction_but_for_one_instant(postgres_database: Database) -> None:
    state = text("SELECT state FROM pg_stat_activity WHERE pid = :pid")
    mine, count = text("SELECT pg_backend_pid()"), text("SELECT count(*) FROM queues")
    with postgres_database.reading() as session, postgres_database.transaction() as other:
        assert other.execute(state, {"pid": session.execute(mine).scalar_one()}).scalar_one() == "idle"

    with postgres_database.reading(one_instant=True) as session:
        assert session.execute(count).scalar_one() == 0
        with postgres_database.transaction() as other:
            other.execute(text("INSERT INTO queues (name, paused) VALUES ('q', true)"))
            inside = other.execute(state, {"pid": session.execute(mine).scalar_one()}).scalar_one()
        assert (inside, session.execute(count).scalar_one()) == ("idle in transaction", 0)

    with pytest.raises(RuntimeError), postgres_database.transaction() as session:  # noqa: PT012 - who writes is in one
        session.execute(text("DELETE FROM queues"))
        raise RuntimeError
    with postgres_database.reading() as session:
        assert session.execute(count).scalar_one() == 1


def test_a_process_that_freezes_in_the_middle_of_a_change_holds_no_row_for_long(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_FROZEN_MS", 200)
    frozen, awake = Database(postgres_url), Database(postgres_url)
    with awake.transaction() as session:
        session.execute(text("CREATE TABLE things (id int)"))
        session.execute(text("INSERT INTO things VALUES (1)"))
    change = text("UPDATE things SET id = id + 1")

    with pytest.raises(ServiceUnavailableError, match="idle-in-transaction"), frozen.transaction() as its:  # noqa: PT012
        its.execute(change)
        with awake.transaction() as session:  # waits for the row, as a reconciler comes again for it
            session.execute(change)
        its.execute(change)

    with awake.reading() as session:
        time.sleep(0.4)  # who only reads may take their time
        assert session.execute(text("SELECT id FROM things")).scalar_one() == 2
    frozen.close()
    awake.close()


def test_an_unreachable_postgres_says_where_and_hides_the_password() -> None:
    port = free_port()
    database = Database(f"postgresql+psycopg://ada:s3cret@127.0.0.1:{port}/rows")

    with pytest.raises(ServiceUnavailableError, match=rf"127\.0\.0\.1:{port}") as raised, database.transaction() as s:
        s.execute(text("SELECT 1"))

    assert "s3cret" not in str(raised.value)
    database.close()


@pytest.mark.parametrize("url", ["mysql://a:s3cret@b/c", "no url", "postgresql+asyncpg://a:s3cret@b/c"])
def test_other_urls_are_refused_without_the_password(url: str) -> None:
    with pytest.raises(SettingsError, match="VGEN_DATABASE_URL") as raised:
        make_engine(url)
    assert "s3cret" not in str(raised.value)


def test_a_postgres_that_became_read_only_is_away_until_it_is_not(postgres_url: str) -> None:
    plain, name = postgres_url.replace("+psycopg", ""), postgres_url.rpartition("/")[2]

    def set_read_only(value: str) -> None:
        with psycopg.connect(plain, autocommit=True, options="-c default_transaction_read_only=off") as connection:
            connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {value}".encode())

    database = Database(postgres_url)
    try:
        with database.transaction() as session:
            session.execute(text("CREATE TABLE t (n int)"))
        set_read_only("on")
        database.close()  # the setting is read when a connection is made
        with pytest.raises(ServiceUnavailableError, match="read-only"), database.transaction() as session:
            session.execute(text("INSERT INTO t VALUES (1)"))
        set_read_only("off")

        with database.transaction() as session:
            session.execute(text("INSERT INTO t VALUES (1)"))
    finally:
        database.close()


def test_a_read_only_sqlite_file_says_so(sqlite_database: Database) -> None:
    sqlite_database.close()
    database = Database(f"sqlite:///file:{sqlite_database.engine.url.database}?mode=ro&uri=true")

    with pytest.raises(ServiceUnavailableError, match=r"rows\.sqlite3.*readonly"), database.transaction() as session:
        session.execute(text("INSERT INTO queues (name, paused) VALUES ('q', true)"))
    database.close()


def test_a_full_sqlite_file_says_so_and_keeps_what_it_has(sqlite_database: Database) -> None:
    line = Line(sqlite_database)
    line.submit(count=1)

    with pytest.raises(ServiceUnavailableError, match="full"), sqlite_database.transaction() as session:  # noqa: PT012
        pages = session.execute(text("PRAGMA page_count")).scalar_one()
        session.execute(text(f"PRAGMA max_page_count = {pages + 1}"))
        for number in range(200):
            session.execute(
                text("INSERT INTO events (at, kind, data) VALUES (1, 'x', :data)"), {"data": f'"{number:05000}"'}
            )
    line.check_sums()


def test_a_folder_in_place_of_a_sqlite_file_says_so(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}")

    with pytest.raises(ServiceUnavailableError, match="unable to open"), database.transaction() as session:
        session.execute(text("SELECT 1"))
    database.close()
