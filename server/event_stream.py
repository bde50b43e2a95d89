"""Server-sent events: the one loop that all streams of the server have."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from pipeline.errors import ServiceUnavailableError
from server.auth import Caller, still_holds
from server.database import Line

logger = logging.getLogger(__name__)
SSE = "text/event-stream"
KEEP_ALIVE_S = 15.0
"""A stream that says nothing for so long sends a comment; as often it is looked whether its caller may still read."""
_LINE_END = re.compile("\r\n|\r|\n")
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


@dataclass(frozen=True, slots=True)
class Reading:
    """What one look at the rows brought."""

    messages: Sequence[str]
    """Events as ``event`` makes them."""
    over: bool = False
    """True if nothing more will come: the stream ends."""
    more: bool = False
    """True if more can be read at once."""


def event_stream(read: Callable[[], Reading], line: Line, caller: Caller, *, poll_s: float) -> StreamingResponse:
    """Return an answer that sends what ``read`` brings, again and again, and that much later after nothing more.

    ``read`` is called in a thread. The stream ends with the work, with the server, with the caller's key, and when the
    database is away: the client then comes back with the last id that it has.
    """
    return StreamingResponse(_messages(read, line, caller, poll_s), media_type=SSE, headers=_HEADERS)


async def _messages(read: Callable[[], Reading], line: Line, caller: Caller, poll_s: float) -> AsyncIterator[str]:
    yield "retry: 2000\n\n"
    quiet_since = checked_at = time.monotonic()
    while not line.stopping.is_set():
        try:
            if time.monotonic() - checked_at >= KEEP_ALIVE_S:  # however much there is to send
                if not await run_in_threadpool(still_holds, caller, line):
                    return
                checked_at = time.monotonic()
            if time.monotonic() - quiet_since >= KEEP_ALIVE_S:
                yield ": keep-alive\n\n"
                quiet_since = time.monotonic()
            reading = await run_in_threadpool(read)
        except ServiceUnavailableError as error:
            logger.warning("stream ended", extra={"reason": str(error)})
            return
        for message in reading.messages:
            yield message
            quiet_since = time.monotonic()
        if reading.over:
            return
        if not reading.more:
            await asyncio.sleep(poll_s)


def event(data: str, *, name: str | None = None, place: str | None = None) -> str:
    """Return one event with this text, of this name, and with this id to go on from."""
    head = ("" if place is None else f"id: {place}\n") + ("" if name is None else f"event: {name}\n")
    # Not by `splitlines`: JSON may hold what that takes for the end of a line, such as U+2028.
    lines = _LINE_END.split(data.removesuffix("\n"))
    return head + "".join(f"data: {text}\n" if text else "data:\n" for text in lines) + "\n"
