"""Ctrl-C while work is going on: the first asks for an orderly stop, the second stops at once."""

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any, Self

from cli import output
from pipeline.processes import stop_signals
from service.exit_codes import ExitCode


class Interrupt:
    """Within the context SIGINT, SIGTERM and SIGHUP set ``event`` instead of raising; a second one ends the process.

    But not SIGHUP: of a terminal that closes it comes from the shell and from the kernel.
    """

    def __init__(self, message: str) -> None:
        self.message = message
        """What the first signal is answered with."""
        self.event = threading.Event()
        self._before: dict[signal.Signals, Any] = {}

    @property
    def stopped(self) -> bool:
        return self.event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until a signal comes; whether one has come."""
        return self.event.wait(seconds)

    def __enter__(self) -> Self:
        for number in stop_signals():
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.event.is_set():
            if number == signal.SIGHUP:
                return
            # Nothing is lost: the rows say what was not finished, and the children end with their pipe.
            os._exit(ExitCode.INTERRUPTED)
        self.event.set()
        # Not through sys.stderr: a signal may come while that is being written.
        with contextlib.suppress(OSError):  # the terminal is gone
            os.write(2, f"\n{output.clean(self.message)}\n".encode())
