"""Metrics as an answer: in Prometheus's text format, or in OpenMetrics where it is asked for."""

from collections.abc import Iterable, Iterator

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry
from starlette.responses import Response


class _Collected(Collector):
    """Metrics that were read already, as the library's encoders ask for them."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = tuple(metrics)

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


def exposition(metrics: Iterable[Metric], accept: str) -> Response:
    """Return the answer to a request whose ``Accept`` header is this."""
    registry = CollectorRegistry()
    registry.register(_Collected(metrics))
    encode, content_type = choose_encoder(accept)
    return Response(encode(registry), media_type=content_type)
