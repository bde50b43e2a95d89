"""The time at which this worker began to stop, shared with its pool's children."""

import multiprocessing
import time

_since = multiprocessing.Value("d", 0.0)
"""The time when the worker began to stop (monotonic seconds, 0: not stopping)."""


def stopping_since() -> float | None:
    """Return when this worker began to stop, or None."""
    since: float = _since.value
    return since or None


def note_stop() -> None:
    """The worker has been told to stop."""
    if not _since.value:
        _since.value = time.monotonic()


def begin_in_fork() -> None:
    """A fork of ``vgen worker`` shares nothing with the other workers of its host."""
    global _since  # noqa: PLW0603  # what is shared with other processes cannot be changed in place
    _since = multiprocessing.Value("d", 0.0)
