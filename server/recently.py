"""What was known a moment ago of the whole line: to ask for each poll would cost more than the answer."""

import time

from sqlalchemy.orm import Session

from db.reading.queue_position import Queue, queue
from db.scheduling.capacity import gpu_capacity

_KEPT_S = 3.0
_TIMES = 20.0
"""What took a while to count is kept so many times as long, so that counting takes a small share of the time."""


class RecentSpeed:
    """Seconds from one clip's end to the next one's, over all GPUs, looked up every few seconds at most."""

    def __init__(self) -> None:
        self._known: tuple[float, float | None, float | None] | None = None

    def of(self, session: Session) -> tuple[float | None, float | None]:
        """Seconds of one clip, and seconds between two clips of all GPUs; None: nothing was made lately."""
        known = self._known
        if known is None or time.monotonic() - known[0] > _KEPT_S:
            measured = [(line.slots, line.seconds_each) for line in gpu_capacity(session).values() if line.slots]
            rates = [(slots, seconds) for slots, seconds in measured if seconds]
            rate = sum(slots / seconds for slots, seconds in rates)
            each = min((seconds for _, seconds in rates), default=None)
            known = self._known = (time.monotonic(), each, 1 / rate if rate else None)
        return known[1], known[2]


class RecentQueue:
    """The line's queue, counted anew as often as that is cheap, and every few seconds at least."""

    def __init__(self) -> None:
        self._known: tuple[float, Queue] | None = None

    def of(self, session: Session) -> Queue:
        known = self._known
        if known is None or time.monotonic() > known[0]:
            began = time.monotonic()
            counted = queue(session)
            took = time.monotonic() - began
            known = self._known = (time.monotonic() + min(_KEPT_S, _TIMES * took), counted)
        return known[1]
