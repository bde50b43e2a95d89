"""The thread of a worker that renews the leases of its running steps."""

import threading
from typing import Protocol


class Renewable(Protocol):
    def renew_or_stop(self) -> None:
        """Called by the timer every so often; must not raise."""


class LeaseTimer:
    """Renews whatever is added, every ``every_s`` seconds, until it is removed.

    A thread for each step would cost more than an empty step does.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._renewables: set[Renewable] = set()
        self._changing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def add(self, renewable: Renewable) -> None:
        with self._changing:
            self._renewables.add(renewable)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lease timer", daemon=True)
                self._thread.start()

    def remove(self, renewable: Renewable) -> None:
        """Renew it no more; a renewal that is under way goes on to its end."""
        with self._changing:
            self._renewables.discard(renewable)

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            with self._changing:
                now = list(self._renewables)
            for renewable in now:
                renewable.renew_or_stop()
