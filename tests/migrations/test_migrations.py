"""The tables come up from nothing, equal the models, and can be taken down; who upgrades at once waits in line."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect, text

from cli.main import run
from db import schema
from db.session import Database
from tests.forked_cli import CONTEXT


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("postgres_url")) if request.param == "postgres" else f"sqlite:///{tmp_path}/db"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()


def test_an_empty_database_is_upgraded_to_the_models(database: Database) -> None:
    assert schema.check(database) == ["the database is empty: run `vgen db upgrade`"]
    assert schema.revision(database) is None

    schema.upgrade(database)
    schema.upgrade(database)

    assert schema.check(database) == []
    assert schema.revision(database) is not None


def test_a_downgrade_leaves_nothing(database: Database) -> None:
    schema.upgrade(database)

    config = schema._config()
    with database.transaction() as session:
        config.attributes["connection"] = session.connection()
        command.downgrade(config, "base")

    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    schema.upgrade(database)
    assert schema.check(database) == []


def _upgrade(url: str) -> list[str]:
    database = Database(url)
    try:
        schema.upgrade(database)
        return schema.check(database)
    finally:
        database.close()


@pytest.mark.parametrize("processes", [False, True])
def test_several_upgrades_at_once_make_one(url: str, processes: bool) -> None:
    pool: Executor = ProcessPoolExecutor(4, mp_context=CONTEXT) if processes else ThreadPoolExecutor(4)
    with pool:
        assert list(pool.map(_upgrade, [url] * 4)) == [[]] * 4


@pytest.mark.parametrize("old", ["0001", "0004", "0006"])
def test_the_tables_of_a_development_version_are_refused_with_what_to_do(
    database: Database, url: str, old: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    schema.upgrade(database)
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :old"), {"old": old})
    tables = set(inspect(database.engine).get_table_names())
    monkeypatch.setenv("VGEN_DATABASE_URL", url)
    monkeypatch.setenv("VGEN_BROKER_URL", "redis://127.0.0.1:1/0")

    for arguments in (["db", "upgrade"], ["status"], ["worker"], ["dispatcher"]):
        assert run(arguments) != 0, arguments
        shown = capsys.readouterr().err
        assert f"development version before 0.1.0 (schema {old})" in shown, arguments
        assert "VGEN_HOME" in shown, arguments
    assert "development version" in schema.check(database)[0]
    assert set(inspect(database.engine).get_table_names()) == tables
    assert schema.revision(database) == old


def test_a_newer_schema_is_left_as_it_is(database: Database) -> None:
    schema.upgrade(database)
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    schema.upgrade(database)

    assert schema.revision(database) == "9999"
    assert schema.behind(database) is None


def test_check_tells_of_another_release_and_of_missing_parts(database: Database) -> None:
    schema.upgrade(database)
    with database.transaction() as session:
        session.execute(text("DROP INDEX ix_steps_waiting"))
    assert "ix_steps_waiting" in "".join(schema.check(database))

    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    assert schema.check(database)[0].startswith("the schema is at 0000")
