"""One thread a worker that keeps the pulses of its running steps beating."""

from __future__ import annotations

import threading
from typing import Protocol


class Renewable(Protocol):
    def beat(self) -> None:
        """Called every so often while it is at the heart; must not raise."""


class LeaseTimer:
    """Beats for whatever is added, every ``every_s`` seconds, until it is removed.

    A thread for each step would cost more than an empty step does.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._beating: set[Renewable] = set()
        self._changing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def add(self, beating: Renewable) -> None:
        with self._changing:
            self._beating.add(beating)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="heart", daemon=True)
                self._thread.start()

    def remove(self, beating: Renewable) -> None:
        """A beat that is under way goes on to its end."""
        with self._changing:
            self._beating.discard(beating)

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            with self._changing:
                now = list(self._beating)
            for beating in now:
                beating.beat()
