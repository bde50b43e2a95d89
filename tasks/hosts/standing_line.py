"""A solo process's workers that stay ready as long as the process lives, even while nothing waits."""

import logging
import threading
from types import TracebackType
from typing import Self

from db.session import Database
from pipeline.settings import Settings
from tasks.hosts.home_lock import HomeLock
from tasks.hosts.solo import SoloLine

logger = logging.getLogger(__name__)
_POLL_S = 0.5


class StandingLine:
    """Works off what waits and what comes, while the block lasts and no other process works in the home.

    While another one does, it waits for that one's end, and goes on from there. A line that dies sets ``stopping``,
    and its error is in ``error``.
    """

    def __init__(self, settings: Settings, database: Database, stopping: threading.Event) -> None:
        self.error: BaseException | None = None
        self._settings = settings
        self._database = database
        self._stopping = stopping
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="standing-line")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()

    def _run(self) -> None:
        lock = HomeLock(self._settings.home)
        try:
            while not lock.acquire():
                if self._ended(_POLL_S):
                    return
            self._work()
        except BaseException as error:  # told to the server, which ends by it
            logger.exception("the line ended")
            self.error = error
            self._stopping.set()
        finally:
            lock.release()

    def _work(self) -> None:
        with SoloLine(self._settings, self._database) as line:
            while not self._ended(_POLL_S):
                if line.error is not None:
                    raise line.error

    def _ended(self, seconds: float) -> bool:
        """Wait so long; whether the line is to end."""
        return self._left.wait(seconds) or self._stopping.is_set()
