"""The engine for PostgreSQL, also behind a pooler such as PgBouncer that gives each transaction another connection.

So nothing here, and nothing that uses it, may rely on what a session keeps from one transaction to the next: settings
by SET, prepared statements, advisory locks of a session, LISTEN, temporary tables.
"""

import math
import time
from typing import Any

import psycopg
from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from pipeline.errors import SettingsError

READ_ONLY = "vgen_read_only"
"""Execution option of a connection that changes nothing."""
_PING_AFTER_S = 3.0
_FROZEN_MS = 10_000
"""A process that says nothing for so long in the middle of a change is taken for frozen: PostgreSQL ends its
transaction. Else the rows that it locked could not be recovered until it wakes."""
_POOLED = "vgen_pooled"
_READ_ONLY_SQLSTATE = "25006"
"""read_only_sql_transaction (PostgreSQL, appendix A); psycopg does not count it among operational errors."""


def make_postgres_engine(url: URL) -> Engine:
    """An engine for ``postgresql+psycopg://``; to connect raises SettingsError where the database is not in UTF-8."""
    engine = create_engine(
        url,
        pool_size=5,
        max_overflow=10,
        # The one that was used last: in turns, each of them would be idle for long enough to be asked first.
        pool_use_lifo=True,
        connect_args={
            **{"connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3},
            # Keepalives are not sent while data waits for its acknowledgement: a cut wire is noticed by this.
            "tcp_user_timeout": 20_000,
            "client_encoding": "utf8",  # whatever PGCLIENTENCODING says
        },
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _end_if_frozen)
    event.listen(engine, "checkin", _note_return)
    event.listen(engine, "handle_error", _read_only_is_away)
    event.listen(engine, "checkout", _ping_if_idle)
    return engine


def is_pooled(connection: Connection) -> bool:
    """Return whether a pooler stands between this process and the server."""
    return bool(connection.info.get(_POOLED))


def _prepare(connection: psycopg.Connection[Any], record: ConnectionPoolEntry) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        name = connection.info.dbname
        connection.close()
        raise SettingsError(
            f"VGEN_DATABASE_URL: database {name!r} is encoded in {encoding}, which cannot hold every prompt: use "
            f"one in UTF8, such as `createdb --encoding=UTF8 --template=template0 NAME` makes"
        )
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    # A pooler hands out numbers of its own: which process answers changes.
    pooled = row is not None and row[0] != connection.info.backend_pid
    record.info[_POOLED] = pooled
    if pooled:
        connection.prepare_threshold = None
    else:  # once for the connection: that costs nothing later
        # Not by the connection's `options`, which a connection pooler such as PgBouncer may refuse.
        connection.execute(f"SET idle_in_transaction_session_timeout = {_FROZEN_MS}".encode())
    connection.commit()


def _end_if_frozen(connection: Connection) -> None:
    if is_pooled(connection) and not connection.get_execution_options().get(READ_ONLY, False):
        connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = {_FROZEN_MS}")


def _read_only_is_away(context: ExceptionContext) -> None:
    """A server that became a standby, as in a failover, is taken for one that is away: waited for, and asked anew."""
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY_SQLSTATE:
        context.is_disconnect = True


def _note_return(connection: object, record: ConnectionPoolEntry) -> None:
    record.info["returned"] = time.monotonic()


def _ping_if_idle(connection: psycopg.Connection[Any], record: ConnectionPoolEntry, fairy: object) -> None:
    """Ask an idle connection whether it still lives. One in constant use is not asked: a step's transactions are
    short, and who meets a dead connection in the first statement is told the same and tries again."""
    if time.monotonic() - record.info.get("returned", math.inf) > _PING_AFTER_S:
        try:
            connection.execute("SELECT 1")
            connection.rollback()
        except psycopg.Error as error:
            raise DisconnectionError from error
