"""``/live``: parts of pages as server-sent events, each time that the rows say something else."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.concurrency import run_in_threadpool

from db.clips import jobs
from db.reading.feed import Feed, News
from server.auth import Visit
from server.database import Line, ServedLine
from server.event_stream import Reading, event, event_stream
from server.native.events import feed_of, place_of, place_text
from server.native.lookup import visible_batch, visible_job
from server.pages.assets import Viewer
from server.pages.clips import cards
from server.pages.progress import job_now, page_of_batches, progress_of
from server.pages.rendering import fragment

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
    feed = await run_in_threadpool(feed_of, line, visit.caller, batch_id, None, place_of(after, last_event_id))
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
    feed = await run_in_threadpool(feed_of, line, visit.caller, None, job_id, place_of(after, last_event_id))

    def read_part() -> _Part:
        news: News = feed.poll()
        with line.database.reading() as session:
            row = visible_job(session, visit.caller, job_id)
            html = fragment("parts.html", "job_state", job_now(session, row, line))
        return _Part(html, place=place_text(feed.place), over=news.finished)

    return _stream(read_part, line, visit)


class _Shown:
    """A part of a page, sent again when it is another one."""

    def __init__(self, read_part: Callable[[], _Part]) -> None:
        self._read_part = read_part
        self._html = ""

    def read(self) -> Reading:
        part = self._read_part()
        messages = [] if part.html == self._html and not part.once else [event(part.html + part.once, place=part.place)]
        self._html = part.html
        if part.over:
            messages.append(event("", name="done"))
        return Reading(messages, over=part.over)


def _stream(read_part: Callable[[], _Part], line: Line, visit: Visit) -> Response:
    return event_stream(_Shown(read_part).read, line, visit.caller, poll_s=POLL_S)
