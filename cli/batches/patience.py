"""Keeps watchers alive while a service is unreachable: they say so, retry, and give up after some minutes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from cli import output, times
from pipeline.errors import ServiceUnavailableError

Value = TypeVar("Value")
GIVE_UP_S = 900.0
"""A database that is away for longer is no restart any more."""
RETRY_S = 1.0


class Patience:
    """Reads again while the database is away; on giving up, ``advice`` says what goes on and how to come back."""

    def __init__(
        self, advice: str, *, give_up_s: float = GIVE_UP_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._advice = advice
        self._give_up_s = give_up_s
        self._clock = clock
        self._away_since: float | None = None

    def read(self, read: Callable[[], Value]) -> Value | None:
        """Return what ``read`` does; None while the database is away.

        Raises:
            ServiceUnavailableError: it has been away for too long.
        """
        try:
            value = read()
        except ServiceUnavailableError as error:
            self._bear(error)
            return None
        if self._away_since is not None:
            output.notice(f"the database is back after {times.span(self._clock() - self._away_since)}")
            self._away_since = None
        return value

    def insist(self, read: Callable[[], Value], wait: Callable[[float], bool]) -> Value | None:
        """Read until it works; None where ``wait`` (seconds) answers True: asked to stop."""
        while (value := self.read(read)) is None:
            if wait(RETRY_S):
                return None
        return value

    def _bear(self, error: ServiceUnavailableError) -> None:
        if self._away_since is None:
            self._away_since = self._clock()
            output.notice(f"{error}; still here: it is asked again for {times.span(self._give_up_s)}")
        if (away_s := self._clock() - self._away_since) >= self._give_up_s:
            raise ServiceUnavailableError(f"{error}; gave up after {times.span(away_s)}. {self._advice}") from error


def goes_on(batch_ids: list[str]) -> str:
    """Return the advice of a watcher of these batches."""
    names = ", ".join(batch_ids)
    return f"Batch {names} continues without this command: `vgen watch {batch_ids[0]}` follows it again"
