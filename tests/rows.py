"""A look at PostgreSQL's rows past everything that is tested."""

from __future__ import annotations

import contextlib
from typing import Any

import psycopg


class Rows:
    """Reads over one connection, which is made anew where the server was away: tests ask many times a second."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url.replace("+psycopg", "")
        self._connection: psycopg.Connection | None = None

    def read(self, query: str) -> list[tuple[Any, ...]]:
        """Every call sees what is committed by then; raises psycopg.OperationalError while the server is away."""
        if self._connection is not None:
            with contextlib.suppress(psycopg.OperationalError):
                return self._connection.execute(query.encode()).fetchall()
            self.close()
        self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=5)
        return self._connection.execute(query.encode()).fetchall()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
