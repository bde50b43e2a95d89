"""Restarts a worker that receives no messages although its queue has some.

Several releases of Celery stopped to consume after a reconnect (celery/celery#9054, #10205): connected, idle, deaf.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterable

from db import events
from db.scheduling import capacity
from db.session import Database

logger = logging.getLogger(__name__)

POLL_S = 5.0
OVERDUE_MS = 10_000
"""A message that has been in the broker for so long would have reached an idle worker."""
_SECOND_SIGNAL_S = 60.0


class Watchdog:
    """Watches one worker process from within; ``vgen worker`` starts it again when it has ended."""

    def __init__(
        self,
        database: Database,
        *,
        name: str,
        queues: Callable[[], Iterable[str]],
        busy: Callable[[], bool],
        stopping: Callable[[], float | None],
        silence_s: float,
        end: Callable[[int], None] | None = None,
    ) -> None:
        self._database = database
        self._worker = name
        self._queues = queues
        self._busy = busy
        self._stopping = stopping
        self._silence_s = silence_s
        self._end = end or (lambda number: os.kill(os.getpid(), number))
        self._heard = time.monotonic()
        self._ended: float | None = None

    def heard(self) -> None:
        """A task was received."""
        self._heard = time.monotonic()

    def poll(self) -> None:
        """End the worker when it has been deaf for too long. Raises ServiceUnavailableError."""
        now = time.monotonic()
        if self._ended is not None:
            if now - self._ended >= _SECOND_SIGNAL_S:
                self._end(signal.SIGQUIT)  # it hangs: its pool's children are ended with it
            return
        if self._busy() or self._stopping() is not None or not self._overdue():
            self._heard = now
        elif now - self._heard >= self._silence_s:
            logger.error("worker receives no messages and is restarted", extra={"worker": self._worker})
            with self._database.transaction() as session:
                events.record(session, "worker_restarted", worker=self._worker, silent_s=round(now - self._heard))
            self._ended = now
            self._end(signal.SIGTERM)

    def _overdue(self) -> bool:
        with self._database.reading() as session:
            return capacity.overdue(session, sorted(self._queues()), older_than_ms=OVERDUE_MS)
