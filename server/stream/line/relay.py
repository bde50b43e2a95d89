"""A segment's media as the worker's own live encoder sends them, through Redis, to servers of other hosts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from enum import Enum

import redis

from pipeline.encoding.live import Mode
from server.stream.source import Media, MediaBegin, MediaEnd
from tasks.live_chunks import END, INIT, Entry, LiveChunks, stream_id, stream_of

logger = logging.getLogger(__name__)

_READ_S = 0.5
QUIET_S = 2.0
"""A relay of which nothing came for so long is given up where the media can be had elsewhere."""


class Relayed(Enum):
    """How the reading of a relay ended."""

    WHOLE = "whole"
    """All media of the segment were handed on."""
    GAP = "gap"
    """Something is missing, or is not what this client wants; it will not come."""
    LEFT = "left"
    """Another place has become the better one."""


class Relay:
    """One segment in the stream of a session on one type of GPU."""

    def __init__(
        self,
        chunks: LiveChunks,
        session: str,
        gpu_type: str | None,
        segment: int,
        *,
        mode: Mode,
        fps: float,
        put: Callable[[MediaBegin | Media | MediaEnd], None],
    ) -> None:
        self._chunks = chunks
        self._stream = stream_of(session, gpu_type)
        self._segment = segment
        self._mode = mode
        self._fps = fps
        self._put = put
        self._number = 0
        """The last entry that was handed on; 0: none."""

    @property
    def begun(self) -> bool:
        """Whether anything was handed on."""
        return self._number > 0

    def read(self, stop: threading.Event, leave: Callable[[float], bool]) -> Relayed:
        """Hand on what comes. ``leave`` is asked again and again, with the seconds in which nothing came.

        Where Redis is away, it is asked again: entries that come after the last one go on from it, also in a Redis
        that has lost the ones before.
        """
        quiet_since = time.monotonic()
        while not stop.is_set():
            try:
                entries = self._chunks.read(self._stream, self._segment, self._number, wait_s=_READ_S)
            except redis.RedisError as error:
                logger.warning("live media are away", extra={"reason": str(error)})
                stop.wait(_READ_S)
                entries = []
            for entry in entries:
                quiet_since = time.monotonic()
                if not self._fits(entry):
                    return Relayed.GAP
                if entry.number == END:
                    frames = int(entry.fields["frames"])
                    self._put(MediaEnd(self._number - INIT, frames / self._fps * 1000))
                    return Relayed.WHOLE
                self._number = entry.number
                self._hand_on(entry)
            if leave(time.monotonic() - quiet_since):
                return Relayed.LEFT
        return Relayed.WHOLE

    def _fits(self, entry: Entry) -> bool:
        """Return whether the entry goes on from the last one; else one was capped, or lost with Redis."""
        if entry.segment != self._segment or entry.number not in (self._number + 1, END):
            return False
        if entry.number == END:
            return self._number - INIT == int(entry.fields["chunks"])
        # The client that the worker was told of may have wanted the other mode.
        return entry.number != INIT or entry.fields["mode"].decode() == self._mode

    def _hand_on(self, entry: Entry) -> None:
        if entry.number == INIT:
            name, mime = stream_id(self._stream, self._segment), entry.fields["mime"].decode()
            self._put(MediaBegin(name, mime, self._mode, entry.fields["data"]))
        else:
            self._put(Media(entry.number - INIT - 1, entry.fields["data"]))
