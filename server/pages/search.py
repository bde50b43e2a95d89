"""``/search``: clips of all batches whose prompt or custom id has a text in it."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import select

from db.models import Batch, Job
from db.reading.clips import containing
from pipeline.errors import InputError, Problem
from server.auth import owned
from server.database import ServedLine
from server.native.lookup import is_id
from server.pages.address import PAGE_SIZE, Address
from server.pages.assets import Viewer
from server.pages.clips import cards
from server.pages.rendering import page
from server.pages.route import PageRoute

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/search")
def search(request: Request, line: ServedLine, visit: Viewer, after: Annotated[str | None, Query()] = None) -> Response:
    """Show the clips, newest first."""
    if after and not is_id(after):
        raise InputError([Problem(f"{after[:80]!r} is not the id of a job", field="after")])
    address = Address.of("/search", {"q": request.query_params.get("q", "")})
    text = address.text("q")
    query = select(Job).join(Batch, Batch.id == Job.batch_id).where(containing(text), Job.deleted_at.is_(None))
    query = owned(query, visit.caller).order_by(Job.id.desc()).limit(PAGE_SIZE + 1)
    with line.database.reading() as session:
        jobs = session.scalars(query.where(Job.id < after) if after else query).all() if text else []
        found = cards(session, jobs[:PAGE_SIZE], line.settings, rater=visit.caller.owner)
    more = address.with_(after=jobs[PAGE_SIZE - 1].id) if len(jobs) > PAGE_SIZE else None
    return page(request, visit, "search.html", text=text, cards=found, after=after, next_page=more, address=address)
