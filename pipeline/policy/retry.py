"""Decide whether a failed step is tried again, and when: a pure function of what failed and how often.

Bounds per step; being stopped (drain, pause) is counted nowhere. A lost lease counts as a crash only when that attempt
made no progress; ``MAX_LOSSES`` bounds every other loss.
"""

import random
from dataclasses import dataclass

from pipeline.errors import FailureClass

MAX_RETRYABLE = 14
"""Tries against something outside that fails: with the backoff below 7 to 14 minutes, so that a store, a language model
or a disk that is away or full for some minutes fails no job."""
MAX_OTHER = 3
"""Tries after an unexpected error, a crash, or running out of memory."""
MAX_PROVEN = 2
"""Crashes of a job on one worker, on which another job succeeded in between: it is not the worker's fault."""
MAX_IN_A_ROW = 3
"""A worker on which so many different jobs crash in a row is taken for broken, and takes no more, where they have no
batch, owner or file in common, or where it cannot make a clip of its own either."""
MAX_LOSSES = 10
"""Leases lost with their worker, whatever progress was made in between."""

_BASE_MS = 1_000
_CAP_MS = 120_000


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """``again`` after ``delay_ms``, or never."""

    again: bool
    delay_ms: int = 0


def decide(failure: FailureClass, count: int, *, proven: bool = False, jitter: float | None = None) -> RetryDecision:
    """Return what follows the ``count``-th failure of this class (1 is the first).

    ``proven`` says that it crashed on this worker before, and that another job succeeded there in between.
    ``jitter`` in [0, 1) spreads the delay over the upper half of the backoff; random when not given.
    """
    if failure is FailureClass.REFUSED:
        return RetryDecision(again=False)
    bound = MAX_RETRYABLE if failure is FailureClass.RETRYABLE else MAX_OTHER
    if failure is FailureClass.CRASH and proven:
        bound = MAX_PROVEN
    if count >= bound:
        return RetryDecision(again=False)
    backoff = min(_CAP_MS, _BASE_MS * 2 ** (count - 1))
    spread = random.random() if jitter is None else jitter
    return RetryDecision(again=True, delay_ms=int(backoff / 2 + backoff / 2 * spread))
