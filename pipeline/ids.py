"""Ids of batches and jobs: short texts that sort by time."""

import secrets
import time

CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32 in lower case: no i, l, o or u, and in the order of ASCII, so that text sorts as numbers do."""
_TIME_CHARS = 9
"""9 × 5 bits hold the milliseconds since 1970 until the year 3084."""
_RANDOM_CHARS = 4


def new_batch_id() -> str:
    """13 characters of Crockford's base 32 that sort by time: 9 of milliseconds, then 4 random ones."""
    value = time.time_ns() // 1_000_000
    random = secrets.randbits(5 * _RANDOM_CHARS)
    return _base32(value, _TIME_CHARS) + _base32(random, _RANDOM_CHARS)


def is_batch_id(text: str) -> bool:
    """Return whether it has the form of a batch's id; what has not is in no row."""
    return len(text) == _TIME_CHARS + _RANDOM_CHARS and set(text) <= set(CROCKFORD)


def job_id(batch_id: str, seq: int) -> str:
    """The id of a batch's job; ``seq`` counts from 0 or 1 as the caller likes and is never used twice in a batch."""
    return f"{batch_id}-{seq:06d}"


def task_id(job_id: str, roll: int, segment: int, stage: str, attempt: int) -> str:
    """The id of a Celery task, as Flower shows it: it names the attempt that its message is for."""
    return f"{job_id}.{roll}.{segment}.{stage}.{attempt}"


def _base32(value: int, length: int) -> str:
    chars = [CROCKFORD[value >> (5 * place) & 31] for place in reversed(range(length))]
    return "".join(chars)
