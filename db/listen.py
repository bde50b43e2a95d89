"""Listens on one PostgreSQL connection for notifications of waiting steps.

It must reach the server itself: behind a pooler in transaction mode, LISTEN succeeds and nothing is ever heard. So a
connection counts once it has heard what this process itself sent by another.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from db.notify import CHANNEL
from db.session import Database
from pipeline.errors import ServiceUnavailableError, SettingsError, VgenError
from pipeline.redaction import redact

logger = logging.getLogger(__name__)

_SETTING = "VGEN_DATABASE_LISTEN_URL"
_PROOF_S = 2.0
_WAIT_S = 1.0
"""How long it takes at most to see that it is to end."""
_AGAIN_S = 5.0
_AGAIN_DEAF_S = 60.0


def hears(database: Database, listen_url: str | None) -> bool:
    """Return whether a dispatcher would hear of waiting steps by this URL, the database's own where it is None.

    Raises:
        SettingsError: the URL is not one of PostgreSQL.
        ServiceUnavailableError: the database cannot be reached.
    """
    with _listening(database, listen_url) as connection:
        return _is_proven(database, connection)


class Listener(threading.Thread):
    """Sets the database's ``notifier.woken`` when steps wait. Where it cannot hear, polls are all there is."""

    def __init__(self, database: Database, listen_url: str | None) -> None:
        super().__init__(name="listen", daemon=True)
        self._database = database
        self._url = listen_url
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            try:
                with _listening(self._database, self._url) as connection:
                    proven = _is_proven(self._database, connection)
                    if proven:
                        self._listen(connection)
            except VgenError as error:
                logger.warning("not listening for waiting steps", extra={"reason": str(error)})
                self._over.wait(_AGAIN_S)
                continue
            if not proven:
                logger.warning(f"hears nothing of waiting steps: set {_SETTING} to the server itself")
                self._over.wait(_AGAIN_DEAF_S)

    def end(self) -> None:
        self._over.set()

    def _listen(self, connection: psycopg.Connection[Any]) -> None:
        logger.info("listening for waiting steps")
        self._database.notifier.woken.set()  # what was left waiting before
        while not self._over.is_set():
            for _ in connection.notifies(timeout=_WAIT_S, stop_after=1):
                self._database.notifier.woken.set()


@contextmanager
def _listening(database: Database, url: str | None) -> Iterator[psycopg.Connection[Any]]:
    """A connection that listens. Raises SettingsError, ServiceUnavailableError."""
    if url is not None and not url.startswith("postgres"):
        raise SettingsError(f"{_SETTING}: not a URL of PostgreSQL; expected postgresql+psycopg://…")
    try:
        direct = Database(url or database.engine.url.render_as_string(hide_password=False))
    except SettingsError as error:
        raise SettingsError(str(error).replace("VGEN_DATABASE_URL", _SETTING)) from None
    try:
        with direct.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(f"LISTEN {CHANNEL}")
            yield cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    except (SQLAlchemyError, psycopg.Error) as error:
        raise ServiceUnavailableError(f"{direct.redacted_url}: cannot listen: {redact(str(error))}") from error
    finally:
        direct.close()


def _is_proven(database: Database, connection: psycopg.Connection[Any]) -> bool:
    token = secrets.token_hex(8)
    database.notifier.send(token)
    return any(notice.payload == token for notice in connection.notifies(timeout=_PROOF_S))
