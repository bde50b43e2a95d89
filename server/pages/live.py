"""``/live``: parts of pages as server-sent events, each time that the rows say something else."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from db.clips import jobs
from db.reading.feed import Feed, News
from db.reading.history import Seen
from pipeline.errors import ServiceUnavailableError
from server.auth import Visit, still_holds
from server.database import Line, ServedLine
from server.native.events import HEADERS, KEEP_ALIVE_S, SSE, place_of, place_text
from server.native.lookup import visible_batch, visible_job
from server.pages.assets import Viewer
from server.pages.clips import cards
from server.pages.progress import job_now, page_of_batches, progress_of
from server.pages.rendering import fragment

logger = logging.getLogger(__name__)
router = APIRouter(prefix="/live", include_in_schema=False)
POLL_S = 1.0
_CARDS = 60
"""Cards sent at once at most; of more changes the head of the page tells."""
After = Annotated[str | None, Query()]
LastEventId = Annotated[str | None, Header()]


@dataclass(frozen=True, slots=True)
class _Part:
    """What is to be shown now."""

    html: str
    """Compared with what was sent last; the same is not sent again."""
    once: str = ""
    """Sent as it comes."""
    place: str | None = None
    over: bool = False
    """True if nothing more will come."""


def mark(line: Line, batch_id: str, job_id: str | None = None) -> str:
    """Return the place from which on a page that is made now has to be told what happens."""
    return place_text(Feed(line.database, batch_id, job_id).mark())


@router.get("/batches")
async def batches(line: ServedLine, visit: Viewer, after: After = None) -> Response:
    """Send the list of batches whenever it is another one."""

    def read_part() -> _Part:
        with line.database.reading() as session:
            rows, _ = page_of_batches(session, line, visit.caller, after=after)
        return _Part(fragment("parts.html", "batch_list", rows))

    return _stream(read_part, line, visit)


@router.get("/batches/{batch_id}")
async def batch(
    batch_id: str, line: ServedLine, visit: Viewer, after: After = None, last_event_id: LastEventId = None
) -> Response:
    """Send the head of a batch's page, and the cards of jobs to which something has happened."""
    feed = await run_in_threadpool(_feed, line, visit, batch_id, None, place_of(after, last_event_id))
    rater, judges = visit.caller.owner, visit.may("votes.write")

    def read_part() -> _Part:
        news = feed.poll()
        with line.database.reading() as session:
            row = visible_batch(session, visit.caller, batch_id)
            head = fragment("parts.html", "progress", progress_of(session, row, line))
            changed = list(dict.fromkeys(entry.job_id for entry in news.entries if entry.job_id is not None))[:_CARDS]
            changed_jobs = [job for job_id in changed if (job := jobs.find(session, job_id)) is not None]
            once = (
                fragment(
                    "parts.html", "changed_cards", cards(session, changed_jobs, line.settings, rater=rater), judges
                )
                if changed_jobs
                else ""
            )
        return _Part(head, once, place_text(feed.place), over=news.finished)

    return _stream(read_part, line, visit)


@router.get("/jobs/{job_id}")
async def job(
    job_id: str, line: ServedLine, visit: Viewer, after: After = None, last_event_id: LastEventId = None
) -> Response:
    """Send what a job's page says of its state, whenever something has happened to it."""
    feed = await run_in_threadpool(_feed, line, visit, None, job_id, place_of(after, last_event_id))

    def read_part() -> _Part:
        news: News = feed.poll()
        with line.database.reading() as session:
            row = visible_job(session, visit.caller, job_id)
            html = fragment("parts.html", "job_state", job_now(session, row, line))
        return _Part(html, place=place_text(feed.place), over=news.finished)

    return _stream(read_part, line, visit)


def _feed(line: Line, visit: Visit, batch_id: str | None, job_id: str | None, place: Seen | None) -> Feed:
    """Raises NotFoundError."""
    with line.database.reading() as session:
        if job_id is not None:
            batch_id = visible_job(session, visit.caller, job_id).batch_id
        else:
            batch_id = visible_batch(session, visit.caller, batch_id or "").id
    return Feed(line.database, batch_id, job_id, place)


def _stream(read_part: Callable[[], _Part], line: Line, visit: Visit) -> Response:
    return StreamingResponse(_messages(read_part, line, visit), media_type=SSE, headers=HEADERS)


async def _messages(read_part: Callable[[], _Part], line: Line, visit: Visit) -> AsyncIterator[str]:
    """Yield the stream's messages. It ends with the work, with the server, and with the visitor's key."""
    yield "retry: 2000\n\n"
    shown, quiet_since = "", time.monotonic()
    checked_at = quiet_since
    while not line.stopping.is_set():
        try:
            if time.monotonic() - checked_at >= KEEP_ALIVE_S:  # however much there is to send
                if not await run_in_threadpool(still_holds, visit.caller, line):
                    return
                checked_at = time.monotonic()
            if time.monotonic() - quiet_since >= KEEP_ALIVE_S:
                yield ": keep-alive\n\n"
                quiet_since = time.monotonic()
            part = await run_in_threadpool(read_part)
        except ServiceUnavailableError as error:  # the browser comes back, with the last id that it has
            logger.warning("stream ended", extra={"reason": str(error)})
            return
        if part.html != shown or part.once:
            yield _message(part.html + part.once, part.place)
            shown, quiet_since = part.html, time.monotonic()
        if part.over:
            yield "event: done\ndata:\n\n"
            return
        await asyncio.sleep(POLL_S)


def _message(html: str, place: str | None) -> str:
    head = "" if place is None else f"id: {place}\n"
    return head + "".join(f"data: {text}\n" for text in html.splitlines()) + "\n"
