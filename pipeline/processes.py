"""A process and its signals: the stop signals, its name, and the signal it gets when its parent dies (Linux only)."""

import contextlib
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
"""prctl's options in linux/prctl.h."""


def die_with_parent(parent: int, number: signal.Signals) -> bool:
    """Have the signal sent to this process when the thread that started it ends; False if ``parent`` is gone."""
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number))
    return os.getppid() == parent


def set_process_name(name: str) -> None:
    """The name in ``ps`` and ``top``, of which the kernel keeps 15 bytes."""
    if sys.platform == "linux":
        _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()))


def _prctl(option: int, value: ctypes.c_char_p | ctypes.c_ulong) -> None:
    with contextlib.suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def cause_of_death(exit_code: int) -> str:
    """Return how a process ended, in words: the signal that killed it, by number and name, or its exit code."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"signal {-exit_code} ({signal.Signals(-exit_code).name})"
    except ValueError:
        return f"signal {-exit_code}"


def stop_signals() -> tuple[signal.Signals, ...]:
    """SIGINT, SIGTERM and SIGHUP; the last one only where nobody has this process ignore it, as ``nohup`` does."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM) if ignored else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def has_terminal() -> bool:
    """Return whether this process has a controlling terminal, and that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def hang_up_like_sigterm() -> None:
    """Have SIGHUP do what SIGTERM does in this process, unless it is ignored."""
    if signal.SIGHUP in stop_signals():
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
