"""``/`` and ``/batches/ID``: what there is, how far it is, and all clips of one batch."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from db.models import Batch
from db.reading import clips as reading
from db.reading.clips import Order
from pipeline.errors import InputError, Problem
from pipeline.states import JobState
from server.database import Line, ServedLine
from server.native.lookup import is_id, visible_batch
from server.pages import live
from server.pages.address import PAGE_SIZE, Address
from server.pages.arrangement import groups_of
from server.pages.assets import Viewer
from server.pages.clips import cards
from server.pages.progress import page_of_batches, progress_of
from server.pages.rendering import page
from server.pages.route import PageRoute

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/")
def list_batches(
    request: Request, line: ServedLine, visit: Viewer, after: Annotated[str | None, Query()] = None
) -> Response:
    """Show the batches, newest first, with how far each is."""
    if after and not is_id(after):
        raise InputError([Problem(f"{after[:80]!r} is not the id of a batch", field="after")])
    with line.database.reading() as session:
        rows, last = page_of_batches(session, line, visit.caller, after=after)
    return page(request, visit, "batches.html", rows=rows, after=after, next_page=last and f"/?after={last}")


@router.get("/batches/{batch_id}")
def show_batch(request: Request, batch_id: str, line: ServedLine, visit: Viewer) -> Response:
    """Show a batch: how far it is, and its clips as a wall of posters."""
    with line.database.reading() as session:
        batch = visible_batch(session, visit.caller, batch_id)
        address = Address.of(f"/batches/{batch.id}", request.query_params)
        place = live.mark(line, batch.id) if batch.active else None
        values = {"progress": progress_of(session, batch, line), **_choices(session, batch, address)}
        values |= (
            _wall(session, batch, line, address, visit.caller.owner)
            if address.arrangement == "wall"
            else _groups(session, batch, line, address, visit.caller.owner)
        )
    return page(request, visit, "batch.html", address=address, live=place, **values)


def _choices(session: Session, batch: Batch, address: Address) -> dict[str, Any]:
    """Return what the form of filters offers."""
    metrics = reading.metrics_of(session, batch.id)
    by_score = (Order.BEST, Order.WORST)
    return {
        "states": list(JobState),
        "presets": reading.presets_of(session, batch.id),
        "metrics": metrics,
        "orders": [order for order in Order if metrics or order not in by_score],
    }


def _wall(session: Session, batch: Batch, line: Line, address: Address, rater: str) -> dict[str, Any]:
    shown = reading.page(session, batch.id, address.filter, address.order, after=address.place, limit=PAGE_SIZE)
    return {
        "cards": cards(session, shown.jobs, line.settings, metric=address.filter.metric, rater=rater),
        "next_page": None if shown.next is None else address.after(shown.next),
        "arranged": None,
    }


def _groups(session: Session, batch: Batch, line: Line, address: Address, rater: str) -> dict[str, Any]:
    arranged = groups_of(session, batch, line.settings, address, address.text("by") or None, rater)
    return {"cards": [], "next_page": arranged.next_page, "arranged": arranged}
