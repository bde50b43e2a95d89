"""Runs the last part of a step while its worker takes the next message."""

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

ReleaseWorker = Callable[[], None]


class Overlap:
    """Runs steps in threads of their own, each of which releases the worker once that may take the next one.

    No more than one step goes on while the next one begins.
    """

    def __init__(self) -> None:
        self._running: list[threading.Thread] = []

    def run(self, step: Callable[[ReleaseWorker], None]) -> None:
        """Run the step, and return when it has ended or has released the worker.

        Raises:
            BaseException: what the step raised before it released the worker. What it raises later is logged.
        """
        self._running = [thread for thread in self._running if thread.is_alive()]
        for thread in self._running[:-1]:
            thread.join()
        released, errors = threading.Event(), list[BaseException]()

        def whole() -> None:
            try:
                step(released.set)
            except BaseException as error:
                if released.is_set():
                    logger.exception("step failed after it released the worker")
                else:
                    errors.append(error)
            finally:
                released.set()

        thread = threading.Thread(target=whole, name="step", daemon=True)
        self._running.append(thread)
        thread.start()
        released.wait()
        if errors:
            raise errors[0]

    def wait(self, timeout_s: float) -> None:
        """Wait until every step that released the worker has ended, for so long at most."""
        end = time.monotonic() + timeout_s
        for thread in self._running:
            thread.join(max(0.0, end - time.monotonic()))
