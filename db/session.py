"""Engines, transactions and the database's clock."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import URL, BigInteger, Connection, Engine, create_engine, event, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from db.notify import Notifier, delays_of
from db.postgres import READ_ONLY, is_pooled, make_postgres_engine
from db.sqlite_damage import MEND, damage_of, is_damage
from pipeline.errors import ServiceUnavailableError, SettingsError, VgenError
from pipeline.files.private import private_folder
from pipeline.redaction import redact

_SQLITE_BUSY_MS = 30_000
_SQLITE_QUERY = frozenset({"uri", "mode", "cache", "timeout", "nolock", "immutable", "psow", "vfs"})
"""The options that pysqlite and SQLite's URIs understand (SQLAlchemy, dialect SQLite; sqlite.org/uri.html)."""
_PING_AFTER_S = 3.0
_MAY_BE_IDLE = text("SET LOCAL idle_in_transaction_session_timeout = 0")


class now_ms(FunctionElement[int]):  # noqa: N801  # reads as the SQL function it is
    """The database's clock in milliseconds since 1970. It moves within a transaction, unlike ``now()``."""

    inherit_cache = True  # holds for a FunctionElement; a bare ColumnElement would make every statement uncacheable
    name = "now_ms"
    type = BigInteger()


@compiles(now_ms, "postgresql")
def _postgres_now(element: now_ms, compiler: SQLCompiler, **kw: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"


@compiles(now_ms, "sqlite")
def _sqlite_now(element: now_ms, compiler: SQLCompiler, **kw: Any) -> str:
    # julianday, since SQLite before 3.42 has no unixepoch('subsec'). 2440587.5 is 1970-01-01 as a Julian day.
    return "CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)"


def make_engine(url: str) -> Engine:
    """An engine for Postgres (``postgresql+psycopg://``) or SQLite (``sqlite:///path``).

    Raises:
        SettingsError: the URL is neither.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # a port that is not a number is a ValueError
        raise SettingsError(
            "VGEN_DATABASE_URL: not a database URL; expected postgresql+psycopg://… or sqlite:///…"
        ) from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "postgresql+psycopg":
        return make_postgres_engine(parsed)
    if parsed.get_backend_name() == "sqlite":
        _prepare_file(parsed, url)
        engine = create_engine(parsed, connect_args={"timeout": _SQLITE_BUSY_MS / 1000})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_immediate)
        return engine
    raise SettingsError(
        f"VGEN_DATABASE_URL: driver {parsed.drivername!r} is not supported; expected postgresql+psycopg or sqlite"
    )


def _prepare_file(url: URL, text: str) -> None:
    """Make the folder of SQLite's file. Raises SettingsError: no file can be there."""
    path = url.database or ""
    if set(url.query) - _SQLITE_QUERY or ("?" in text and not url.query):
        raise SettingsError(
            f"VGEN_DATABASE_URL: what follows the ? in {redact(text)!r} is not an option of SQLite; in a path, write "
            "? as %3F, # as %23 and % as %25"
        )
    if path in ("", ":memory:"):
        return
    if path.startswith("file:"):  # SQLite's own URI
        path = path.removeprefix("file:").removeprefix("//")
    try:
        private_folder(Path(path).parent)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SettingsError(f"the database {path} cannot be used: {reason}") from None


def _prepare_sqlite(connection: sqlite3.Connection, record: object) -> None:
    connection.isolation_level = None  # transactions are begun by us, see below
    try:
        with closing(connection.cursor()) as cursor:
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")  # a finished step survives a power cut
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.execute(f"PRAGMA busy_timeout={_SQLITE_BUSY_MS}")
    except sqlite3.Error:
        connection.close()
        raise


def _begin_immediate(connection: Connection) -> None:
    # A deferred transaction that reads and then writes can fail half-way, and two of them can claim one row.
    only_reads = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")


class Database:
    """A database of vgen. One per process; it must not be carried over a fork."""

    def __init__(self, url: str) -> None:
        self.engine = make_engine(url)
        self.notifier = Notifier(self.engine)

    @property
    def redacted_url(self) -> str:
        """Its URL for people, without secrets."""
        return redact(self.engine.url.render_as_string(hide_password=False))

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @property
    def is_pooled(self) -> bool:
        """Return whether a pooler such as PgBouncer stands before the server. Raises ServiceUnavailableError."""
        with self.reading() as session:
            return is_pooled(session.connection())

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One short transaction: committed at the end, rolled back on any error.

        Raises:
            ServiceUnavailableError: the database cannot be reached, is read-only or full.
        """
        with self._session(self.engine) as session:
            yield session

    @contextmanager
    def reading(self, *, one_instant: bool = False) -> Iterator[Session]:
        """A session that only reads; on SQLite it does not wait for writers. Raises as ``transaction`` does.

        ``one_instant``: every statement sees the rows as the first one did, as always on SQLite, and rows may be
        fetched by pages. Else each statement stands for itself on PostgreSQL, which costs a quarter of the messages.
        """
        with self._session(self._reading_one_instant if one_instant else self._reading) as session:
            if one_instant and not self.is_sqlite:  # it locks nothing, and may be read out to who takes their time
                session.execute(_MAY_BE_IDLE)
            yield session

    @cached_property
    def _reading(self) -> Engine:
        apart = {} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        return self.engine.execution_options(**{READ_ONLY: True}, **apart)

    @cached_property
    def _reading_one_instant(self) -> Engine:
        snapshot = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        return self.engine.execution_options(**{READ_ONLY: True}, **snapshot)

    @contextmanager
    def _session(self, engine: Engine) -> Iterator[Session]:
        try:
            with Session(engine, expire_on_commit=False) as session, session.begin():
                yield session
            for delay_ms in delays_of(session):
                self.notifier.notify(after_s=delay_ms / 1000)
        except (OperationalError, InterfaceError) as error:
            raise ServiceUnavailableError(self._explain(error)) from error
        except DBAPIError as error:
            if error.connection_invalidated or is_damage(error):
                raise ServiceUnavailableError(self._explain(error)) from error
            if not isinstance(error, IntegrityError):
                self._require_sound_file(error)
            raise
        except (SQLAlchemyError, ValueError, LookupError, TypeError) as error:  # a value that cannot be
            self._require_sound_file(error)
            raise

    def now(self) -> int:
        """The database's clock, in milliseconds since 1970."""
        with self.reading() as session:
            return session.scalars(select(now_ms())).one()

    def close(self) -> None:
        """End its connections; dispatchers are woken of what was left waiting."""
        self.notifier.close()
        self.engine.dispose()

    def damage(self) -> str | None:
        """Say what is wrong with a SQLite file, read in whole; None when nothing is, and for PostgreSQL."""
        return damage_of(self.engine.url.database) if self.is_sqlite else None

    def _require_sound_file(self, error: Exception) -> None:
        """Raises ServiceUnavailableError where a damaged file explains the error."""
        if isinstance(error, VgenError):
            return
        damage = self.damage()
        if damage is None and self.is_sqlite and isinstance(error, UnicodeDecodeError):  # all text is written as UTF-8
            damage = str(error)
        if damage is not None:
            raise ServiceUnavailableError(f"database {self.redacted_url}: it is damaged: {damage}; {MEND}") from error

    def _explain(self, error: DBAPIError) -> str:
        reason = str(error.orig).strip().splitlines()
        mend = f"; {MEND}" if is_damage(error) else ""
        return redact(f"database {self.redacted_url}: {reason[0] if reason else type(error.orig).__name__}{mend}")
