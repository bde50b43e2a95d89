"""The history of a batch or job: by pages, and as a stream of server-sent events that goes on where it was cut off."""

import re
import time
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.concurrency import run_in_threadpool

from db.reading.feed import SETTLE_POLL_S, SETTLE_S, Feed, News
from db.reading.history import Seen
from pipeline.errors import InputError, Problem
from server.auth import Caller
from server.database import Line, ServedLine
from server.event_stream import SSE, Reading, event, event_stream
from server.native.lookup import Reader, visible_batch, visible_job
from service.views.events import EventsPageView, entry_view
from service.views.jobs import running_view

router = APIRouter()

POLL_S = 0.5
_PLACE = re.compile(r"(\d{1,18})-(\d{1,18})-(\d{1,18})")

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
    feed = await run_in_threadpool(feed_of, line, caller, batch_id, job_id, place)
    if not stream:
        return await run_in_threadpool(_page, feed, limit)
    if place is not None and await run_in_threadpool(_is_over, Feed(line.database, feed.batch_id, job_id, place)):
        return Response(status_code=204)
    return event_stream(_Stream(feed).read, line, caller, poll_s=POLL_S)


def feed_of(line: Line, caller: Caller, batch_id: str | None, job_id: str | None, place: Seen | None) -> Feed:
    """Return what happens to a job, or else to a batch, from a place on. Raises NotFoundError."""
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


class _Stream:
    """What a stream of a feed has sent."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._progress: dict[tuple[str, str, int], str] = {}
        """The running steps, as they were told last."""

    def read(self) -> Reading:
        place = self._feed.place
        news = self._feed.poll()
        messages = [*_entries(news, place), *self._changed(news)]
        if news.finished:
            messages.append(event(f'{{"next":"{place_text(self._feed.place)}"}}', name="done"))
        return Reading(messages, over=news.finished, more=news.more)

    def _changed(self, news: News) -> Iterator[str]:
        """Yield the running steps whose progress is another than what was told last."""
        before, self._progress = self._progress, {}
        for step, segments in news.running:
            key, text = (step.job_id, step.stage.value, step.segment), running_view(step, segments).model_dump_json()
            self._progress[key] = text
            if before.get(key) != text:
                yield event(text, name="progress")


def _entries(news: News, place: Seen) -> Iterator[str]:
    for entry in news.entries:
        place = place.with_entry(entry)
        yield event(entry_view(entry).model_dump_json(), place=place_text(place))


def place_text(place: Seen) -> str:
    """The place as `id` of an event and `next` of a page."""
    return str(place)
