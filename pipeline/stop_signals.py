"""The signals that ask a process to end in an orderly way: Ctrl-C, a supervisor's stop, and a terminal that closes."""

from __future__ import annotations

import signal


def stop_signals() -> tuple[signal.Signals, ...]:
    """SIGINT, SIGTERM and SIGHUP; the last one only where nobody has this process ignore it, as ``nohup`` does."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM) if ignored else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def hang_up_like_sigterm() -> None:
    """Have SIGHUP do what SIGTERM does in this process, unless it is ignored."""
    if signal.SIGHUP in stop_signals():
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
