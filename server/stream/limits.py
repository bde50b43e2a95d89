"""How much a client may send."""

from __future__ import annotations

import time

MAX_INIT_BYTES = 48 * 1024 * 1024
"""Longest message that the socket takes at all: room for a picture of 32 MiB in base64."""
LONG_CHARACTERS = 64 * 1024
"""A message of more is read in a thread: the event loop does not wait for it."""
MAX_MESSAGE_CHARACTERS = 256 * 1024
"""Longest message after the first."""


def too_long(text: str) -> str | None:
    """Return why a message is too long, if it is."""
    if len(text) <= MAX_MESSAGE_CHARACTERS:
        return None
    return f"the message has {len(text)} characters; at most {MAX_MESSAGE_CHARACTERS} are read"


class MessageRate:
    """A bucket of tokens: a burst, then so many a second. Who goes on while it is empty is shut out."""

    per_second = 20.0
    burst = 100.0
    patience = 1000
    """Messages that are dropped before the session is closed, unless there was time to fill half the bucket."""

    def __init__(self) -> None:
        self._tokens = self.burst
        self._at = time.monotonic()
        self._dropped = 0

    def take(self) -> bool:
        """Return whether one more message may be read."""
        now = time.monotonic()
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.per_second)
        self._at = now
        if self._tokens >= self.burst / 2:
            self._dropped = 0
        if self._tokens < 1:
            self._dropped += 1
            return False
        self._tokens -= 1
        return True

    @property
    def first_refusal(self) -> bool:
        """Return whether this is the first that is dropped: the client is told once."""
        return self._dropped == 1

    @property
    def exhausted(self) -> bool:
        """Return whether so many were dropped that the client is shut out."""
        return self._dropped >= self.patience
