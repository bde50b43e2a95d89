"""The history of a batch or job: by pages, and as a stream of server-sent events that goes on where it was cut off."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from db.reading.feed import SETTLE_POLL_S, SETTLE_S, Feed, News
from db.reading.history import Seen
from pipeline.errors import InputError, Problem, ServiceUnavailableError
from server.auth import Caller, still_holds
from server.database import Line, ServedLine
from server.native.lookup import Reader, visible_batch, visible_job
from service.views.events import EventsPageView, entry_view
from service.views.jobs import running_view

logger = logging.getLogger(__name__)
router = APIRouter()

POLL_S = 0.5
KEEP_ALIVE_S = 15.0
_PLACE = re.compile(r"(\d{1,18})-(\d{1,18})-(\d{1,18})")
SSE = "text/event-stream"
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}

After = Annotated[str | None, Query(description="`next` of the page before, or the `id` of an event of the stream.")]
LastEventId = Annotated[str | None, Header(description="The same; sent by a browser that connects once more.")]
Accept = Annotated[str, Header(include_in_schema=False)]
Limit = Annotated[int, Query(ge=1, le=1000, description="At most so many, of a page.")]
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {SSE: {"schema": {"type": "string"}}}},
    204: {"description": "The work has ended and the stream was read to its end: do not connect again."},
}


@router.get("/batches/{batch_id}/events", responses=_ANSWERS, response_model=EventsPageView)
async def batch_events(
    batch_id: str,
    line: ServedLine,
    caller: Reader,
    after: After = None,
    last_event_id: LastEventId = None,
    accept: Accept = "*/*",
    limit: Limit = 200,
) -> Response | EventsPageView:
    """Return what happened to a batch and its jobs: a page, or a stream (``Accept: text/event-stream``).

    The stream's messages are entries; ``event: progress`` tells of running steps, and ``event: done`` ends it.
    """
    place = place_of(after, last_event_id)
    return await _answer(line, caller, batch_id, None, place, limit, stream=SSE in accept)


@router.get("/jobs/{job_id}/events", responses=_ANSWERS, response_model=EventsPageView)
async def job_events(
    job_id: str,
    line: ServedLine,
    caller: Reader,
    after: After = None,
    last_event_id: LastEventId = None,
    accept: Accept = "*/*",
    limit: Limit = 200,
) -> Response | EventsPageView:
    """Return what happened to a job, as for batches."""
    place = place_of(after, last_event_id)
    return await _answer(line, caller, None, job_id, place, limit, stream=SSE in accept)


def place_of(after: str | None, last_event_id: str | None) -> Seen | None:
    """Return the place that a request names, the header's before the query's. Raises InputError."""
    name, text = ("Last-Event-ID", last_event_id) if last_event_id is not None else ("after", after)
    if text is None:
        return None
    match = _PLACE.fullmatch(text)
    if match is None:
        rule = "use `next` of a page or the `id` of an event, such as 120-45-0"
        raise InputError([Problem(f"{text[:80]!r} is not a place in a history: {rule}", field=name)])
    return Seen(*map(int, match.groups()))


async def _answer(
    line: Line,
    caller: Caller,
    batch_id: str | None,
    job_id: str | None,
    place: Seen | None,
    limit: int,
    *,
    stream: bool,
) -> Response | EventsPageView:
    feed = await run_in_threadpool(_feed, line, caller, batch_id, job_id, place)
    if not stream:
        return await run_in_threadpool(_page, feed, limit)
    if place is not None and await run_in_threadpool(_is_over, Feed(line.database, feed.batch_id, job_id, place)):
        return Response(status_code=204)
    return StreamingResponse(_messages(feed, line, caller), media_type=SSE, headers=HEADERS)


def _feed(line: Line, caller: Caller, batch_id: str | None, job_id: str | None, place: Seen | None) -> Feed:
    """Raises NotFoundError."""
    with line.database.reading() as session:
        if job_id is not None:
            batch_id = visible_job(session, caller, job_id).batch_id
        else:
            batch_id = visible_batch(session, caller, batch_id or "").id
    return Feed(line.database, batch_id, job_id, place)


def _page(feed: Feed, limit: int) -> EventsPageView:
    news = feed.poll_settled(limit)
    return EventsPageView(
        batch_id=feed.batch_id,
        job_id=feed.job_id,
        entries=[entry_view(entry) for entry in news.entries],
        next=place_text(feed.place),
        has_more=news.more,
    )


def _is_over(feed: Feed) -> bool:
    """Return whether the work has ended and nothing of its history is left to be read."""
    give_up_at = time.monotonic() + SETTLE_S
    while True:
        news = feed.poll(1)
        if news.finished:
            return True
        if news.entries or not news.ended or time.monotonic() > give_up_at:
            return False
        time.sleep(SETTLE_POLL_S)


async def _messages(feed: Feed, line: Line, caller: Caller) -> AsyncIterator[str]:
    """Yield the stream's parts. It also ends with the server, and with the key."""
    yield "retry: 2000\n\n"
    progress: dict[tuple[str, str, int], str] = {}
    quiet_since = time.monotonic()
    while not line.stopping.is_set():
        place = feed.place
        try:
            if time.monotonic() - quiet_since >= KEEP_ALIVE_S:
                if not await run_in_threadpool(still_holds, caller, line):
                    return
                yield ": keep-alive\n\n"
                quiet_since = time.monotonic()
            news = await run_in_threadpool(feed.poll)
        except ServiceUnavailableError as error:  # the client comes back, with the last id that it has
            logger.warning("stream ended", extra={"reason": str(error)})
            return
        for message in (*_entries(news, place), *_changed(news, progress)):
            yield message
        if news.finished:
            yield f'event: done\ndata: {{"next":"{place_text(feed.place)}"}}\n\n'
            return
        if not news.more:
            await asyncio.sleep(POLL_S)


def _entries(news: News, place: Seen) -> Iterator[str]:
    for entry in news.entries:
        place = place.with_entry(entry)
        yield f"id: {place_text(place)}\ndata: {entry_view(entry).model_dump_json()}\n\n"


def _changed(news: News, shown: dict[tuple[str, str, int], str]) -> Iterator[str]:
    """Yield the running steps whose progress is another than what was shown last."""
    current: dict[tuple[str, str, int], str] = {}
    for step, segments in news.running:
        key, text = (step.job_id, step.stage.value, step.segment), running_view(step, segments).model_dump_json()
        current[key] = text
        if shown.get(key) != text:
            yield f"event: progress\ndata: {text}\n\n"
    shown.clear()
    shown.update(current)


def place_text(place: Seen) -> str:
    """The place as `id` of an event and `next` of a page."""
    return str(place)
