"""The route that Prometheus asks. It reads rows, so every server answers alike and a restart changes nothing."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response

from db.reading import gauges, totals
from server.auth import Caller, require
from server.database import Line, ServedLine
from server.metrics import families
from server.metrics.exposition import exposition

router = APIRouter(tags=["metrics"])
Reader = Annotated[Caller, Depends(require("metrics.read"))]


def _fold_for_dispatchers(line: Line) -> None:
    """Where no dispatcher moves measurements into totals, do a page of it, so that there are no more with each day."""
    with line.database.reading() as session:
        behind = totals.is_behind(session)
    if behind:
        with line.database.transaction() as session:
            totals.fold(session, line.settings.prices)


@router.get("/metrics", response_class=Response)
def metrics(request: Request, line: ServedLine, caller: Reader, accept: Annotated[str, Header()] = "") -> Response:
    """Return every metric in Prometheus's text format, or in OpenMetrics where it is asked for."""
    request.app.state.requests.record()
    _fold_for_dispatchers(line)
    with line.database.reading(one_instant=True) as session:
        collected = list(families.collect(totals.read(session), gauges.read(session)))
    return exposition(collected, accept)
