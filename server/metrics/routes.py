"""The route that Prometheus asks. It reads rows, so every server answers alike and a restart changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from db.reading import gauges, totals
from server.auth import Caller, require
from server.database import Line, ServedLine
from server.metrics import families

router = APIRouter(tags=["metrics"])
Reader = Annotated[Caller, Depends(require("metrics.read"))]


class _Collected(Collector):
    """Metrics that were read already, as the library's encoders ask for them."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


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
    registry = CollectorRegistry()
    registry.register(_Collected(collected))
    encode, content_type = choose_encoder(accept)
    return Response(encode(registry), media_type=content_type)
