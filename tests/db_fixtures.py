"""Databases for tests: a SQLite file and a real PostgreSQL, each with this release's tables and no rows.

Each has one engine for the whole run, whose connections end with the test: SQLAlchemy keeps the compiled statements
with the engine, and to compile them anew for every test took half of the time.
"""

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

_LARGE = 200_000
"""Bytes of a table from which on what was deleted in it would slow down the tests to come."""


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with this release's tables; to be copied."""
    path = tmp_path_factory.mktemp("template") / "template.sqlite3"
    database = Database(f"sqlite:///{path}")
    schema.upgrade(database)
    database.close()
    return path


@pytest.fixture(scope="session")
def _sqlite_engine(tmp_path_factory: pytest.TempPathFactory) -> Database:
    return Database(f"sqlite:///{tmp_path_factory.mktemp('rows')}/rows.sqlite3")


@pytest.fixture(scope="session")
def _postgres_engine(postgres_server: Server) -> Iterator[Database]:
    with servers.fresh_database(postgres_server) as url:
        database = Database(url)
        schema.upgrade(database)
        yield database
        database.close()


@pytest.fixture
def sqlite_database(
    request: pytest.FixtureRequest, sqlite_template: Path, _sqlite_engine: Database
) -> Iterator[Database]:
    path = Path(str(_sqlite_engine.engine.url.database))
    for left in path.parent.glob(f"{path.name}*"):  # the file of the test before, and its log
        left.unlink()
    shutil.copyfile(sqlite_template, path)
    try:
        yield _sqlite_engine
        _check_rules(request, _sqlite_engine)
    finally:
        _sqlite_engine.close()


@pytest.fixture
def postgres_database(request: pytest.FixtureRequest, _postgres_engine: Database) -> Iterator[Database]:
    _empty(_postgres_engine)
    try:
        yield _postgres_engine
        _check_rules(request, _postgres_engine)
    finally:
        _postgres_engine.close()


def _empty(database: Database) -> None:
    """Remove every row and count from 1 again. To truncate costs the server four times what it costs to delete."""
    names = [table.name for table in reversed(Base.metadata.sorted_tables)]
    with database.transaction() as session:
        size = session.scalar(
            text("SELECT max(pg_relation_size(oid)) FROM pg_class WHERE relname = ANY(:names)"), {"names": names}
        )
        if size > _LARGE:
            session.execute(text(f"TRUNCATE {', '.join(names)} RESTART IDENTITY"))
            return
        for name in names:
            session.execute(text(f"DELETE FROM {name}"))
        session.execute(text("SELECT setval(format('%I', sequencename)::regclass, 1, false) FROM pg_sequences"))


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
