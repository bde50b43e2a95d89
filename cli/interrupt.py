"""Handles Ctrl-C during work: the first asks for a graceful stop, the second stops at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

from cli import output
from pipeline.processes import has_terminal, stop_signals
from service.exit_codes import ExitCode


class Interrupt:
    """Within the context SIGINT, SIGTERM and SIGHUP set ``event`` instead of raising; a second one ends the process.

    But not SIGHUP: of a terminal that closes it comes from the shell and from the kernel. With ``on_hangup`` a SIGHUP
    calls that instead, also under ``nohup``, unless this process has lost its terminal.
    """

    def __init__(
        self, message: str, *, event: threading.Event | None = None, on_hangup: Callable[[], None] | None = None
    ) -> None:
        self.message = message
        """What the first signal is answered with."""
        self.event = threading.Event() if event is None else event
        self._on_hangup = on_hangup
        self._hangup_stops = signal.SIGHUP in stop_signals()
        self._had_terminal = has_terminal()
        self._before: dict[signal.Signals, Any] = {}

    @property
    def stopped(self) -> bool:
        return self.event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until a signal comes; whether one has come."""
        return self.event.wait(seconds)

    def __enter__(self) -> Self:
        numbers = {*stop_signals(), *((signal.SIGHUP,) if self._on_hangup is not None else ())}
        for number in numbers:
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and self._on_hangup is not None:
            if not self._had_terminal or has_terminal():
                self._on_hangup()
                return
            if not self._hangup_stops:
                return
        if self.event.is_set():
            if number == signal.SIGHUP:
                return
            # Nothing is lost: the rows say what was not finished, and the children end with their pipe.
            os._exit(ExitCode.INTERRUPTED)
        self.event.set()
        # Not through sys.stderr: a signal may come while that is being written.
        with contextlib.suppress(OSError):  # the terminal is gone
            os.write(2, f"\n{output.clean(self.message)}\n".encode())
