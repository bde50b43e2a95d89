"""Databases for tests: a SQLite file and a real PostgreSQL, each with this release's tables and no rows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from db import schema
from db.base import Base
from db.session import Database
from tests import servers
from tests.rules import keeps_every_rule
from tests.servers import Server


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "template.sqlite3"
    database = Database(f"sqlite:///{path}")
    schema.upgrade(database)
    database.close()
    return path


@pytest.fixture(scope="session")
def _postgres_with_tables(postgres_server: Server) -> Iterator[str]:
    with servers.fresh_database(postgres_server) as url:
        database = Database(url)
        schema.upgrade(database)
        database.close()
        yield url


@pytest.fixture
def sqlite_database(request: pytest.FixtureRequest, _sqlite_template: Path, tmp_path: Path) -> Iterator[Database]:
    path = tmp_path / "rows.sqlite3"
    shutil.copyfile(_sqlite_template, path)
    database = Database(f"sqlite:///{path}")
    try:
        yield database
        _check_rules(request, database)
    finally:
        database.close()


@pytest.fixture
def postgres_database(request: pytest.FixtureRequest, _postgres_with_tables: str) -> Iterator[Database]:
    database = Database(_postgres_with_tables)
    names = ", ".join(table.name for table in Base.metadata.sorted_tables)
    with database.transaction() as session:
        session.execute(text(f"TRUNCATE {names} RESTART IDENTITY"))
    try:
        yield database
        _check_rules(request, database)
    finally:
        database.close()


def _check_rules(request: pytest.FixtureRequest, database: Database) -> None:
    """Whatever a test did, its rows keep every rule; those that break one on purpose are marked."""
    if request.node.get_closest_marker("breaks_rules") is None:
        keeps_every_rule(database)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Database:
    """Each test runs once on SQLite and once on PostgreSQL."""
    found = request.getfixturevalue(f"{request.param}_database")
    assert isinstance(found, Database)
    return found
