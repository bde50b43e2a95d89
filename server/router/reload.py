"""Reading the configuration again while the router runs: a good one is used at once, a bad one changes nothing."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from pipeline.errors import InputError
from server.router.app import Router
from server.router.config import RouterConfig
from server.router.metrics import Reload

logger = logging.getLogger(__name__)
Configured = tuple[RouterConfig, str | None]
"""A configuration, and the key of admin requests."""


class Reloader:
    """Reads the configuration when ``wanted`` is set, in a thread of its own: however slow the disk, routing goes on.

    Requests that come while one is read lead to one more reading, however many they are.
    """

    def __init__(self, router: Router, read: Callable[[], Configured], wanted: threading.Event) -> None:
        self._router = router
        self._read = read
        self._wanted = wanted
        self._thread: threading.Thread | None = None
        self._outcome: Configured | str = ""
        """What was read, or why it cannot be used."""

    def tick(self) -> bool:
        """Go on, from the thread of the event loop; return whether another configuration is in use now."""
        if self._thread is None:
            if self._wanted.is_set():
                self._wanted.clear()
                self._thread = threading.Thread(target=self._run, name="vgen-reload", daemon=True)
                self._thread.start()
            return False
        if self._thread.is_alive():
            return False
        self._thread = None
        return self._use(self._outcome)

    def _run(self) -> None:
        try:
            self._outcome = self._read()
        except InputError as error:
            self._outcome = str(error)
        except Exception as error:  # a bug: the router goes on as it was
            logger.exception("the configuration was not read")
            self._outcome = f"{type(error).__name__}: {error}"

    def _use(self, outcome: Configured | str) -> bool:
        if isinstance(outcome, str):
            self._router.last_reload = replace(self._router.last_reload, problem=outcome)
            logger.error("the configuration was read again and is refused, so that the old one stays:\n%s", outcome)
            return False
        added, removed = self._router.use(*outcome)
        self._router.last_reload = Reload(time.time())
        changes = [f"{each.name} ({each.url}) is new" for each in added]
        changes += [f"{each.name} ({each.url}) is removed, and what runs there goes on" for each in removed]
        logger.warning("the configuration was read again: %s", "; ".join(changes) or "the replicas are the same")
        return True
