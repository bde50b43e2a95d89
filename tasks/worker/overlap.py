"""The last part of a step, which goes on while its worker takes the next message."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

LetGo = Callable[[], None]


class Overlap:
    """Runs steps in threads of their own, each of which lets its caller go once the worker may take the next one.

    No more than one step goes on beside the one that begins.
    """

    def __init__(self) -> None:
        self._going_on: list[threading.Thread] = []

    def run(self, step: Callable[[LetGo], None]) -> None:
        """Run the step; come back when it has ended, or has called what it is given.

        Raises:
            BaseException: whatever the step raised before it let go. What it raises later is logged.
        """
        self._going_on = [thread for thread in self._going_on if thread.is_alive()]
        for thread in self._going_on[:-1]:
            thread.join()
        go_on, problems = threading.Event(), list[BaseException]()

        def whole() -> None:
            try:
                step(go_on.set)
            except BaseException as error:
                if go_on.is_set():
                    logger.exception("step failed beside the next one")
                else:
                    problems.append(error)
            finally:
                go_on.set()

        thread = threading.Thread(target=whole, name="step", daemon=True)
        self._going_on.append(thread)
        thread.start()
        go_on.wait()
        if problems:
            raise problems[0]

    def wait(self, timeout_s: float) -> None:
        """Until every step that let go has ended, for so long at most."""
        end = time.monotonic() + timeout_s
        for thread in self._going_on:
            thread.join(max(0.0, end - time.monotonic()))
