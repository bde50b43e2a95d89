"""Notifies dispatchers after the commit of a transaction that left steps waiting.

PostgreSQL's NOTIFY takes a lock of the whole database when it commits, so it has a transaction and a thread of its own
that no other commit waits for, and stands for all commits of a moment. One that is lost costs a poll.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

logger = logging.getLogger(__name__)

CHANNEL = "vgen_waiting"
_AT_MOST_EVERY_S = 0.02
_FLUSH_S = 1.0
_DELAYS = "vgen_wake_after"


def wake_dispatcher(session: Session, *, after_ms: int = 0) -> None:
    """Have dispatchers look for waiting steps once this transaction is committed, or so long after."""
    session.info.setdefault(_DELAYS, set()).add(after_ms)


def delays_of(session: Session) -> set[int]:
    """How long after its commit, in milliseconds, the session has dispatchers woken."""
    delays: set[int] = session.info.pop(_DELAYS, set())
    return delays


class Notifier:
    """Wakes the dispatchers of one database: those that listen to PostgreSQL, or this process's own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.woken = threading.Event()
        """Set when steps wait, in a process whose dispatcher hears of it."""
        self._due: list[float] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    def notify(self, *, after_s: float = 0.0) -> None:
        """Wake dispatchers soon, or after so long; returns at once."""
        with self._changed:
            heapq.heappush(self._due, time.monotonic() + after_s)
            if self._thread is None:
                self._closing = threading.Event()  # its own: one that is slow to end sees that it is to
                self._thread = threading.Thread(target=self._run, args=(self._closing,), name="notify", daemon=True)
                self._thread.start()
            self._changed.notify()

    def send(self, payload: str = "") -> None:
        """Wake dispatchers now. Raises SQLAlchemyError."""
        if self._engine.dialect.name == "postgresql":
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(select(func.pg_notify(CHANNEL, payload)))
        else:
            self.woken.set()

    def close(self) -> None:
        """Send what is due, within a second; what is due later is left to polls."""
        with self._changed:
            thread = self._thread
            self._closing.set()
            self._changed.notify()
        if thread is not None:
            thread.join(_FLUSH_S)
        with self._changed:
            self._thread, self._due = None, []

    def _run(self, closing: threading.Event) -> None:
        while self._wait_until_due(closing):
            try:
                self.send()
            except SQLAlchemyError as error:
                logger.debug("dispatchers not woken", extra={"reason": str(error)})
            closing.wait(_AT_MOST_EVERY_S)

    def _wait_until_due(self, closing: threading.Event) -> bool:
        """Return True when something is due, of which nothing is left then; False to end."""
        with self._changed:
            while not self._due or self._due[0] > time.monotonic():
                if closing.is_set():
                    return False
                self._changed.wait(self._due[0] - time.monotonic() if self._due else None)
            while self._due and self._due[0] <= time.monotonic():
                heapq.heappop(self._due)
            return True
