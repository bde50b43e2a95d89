"""Every metric, in the library's terms: its name, what it says, its labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from db.reading import totals
from db.reading.gauges import Gauges
from server.metrics.requests import BUCKETS_S


@dataclass(frozen=True, slots=True)
class Family:
    """A metric's name, without the ending that Prometheus gives it, and what it says."""

    name: str
    says: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = totals.BUCKETS_S
    """Of a histogram: the upper bounds of its buckets but the last, which has none."""


COUNTERS = (
    Family("vgen_jobs_submitted", "Jobs that were submitted.", ("preset",)),
    Family(
        "vgen_jobs_finished",
        "Jobs that came to an end; one that is tried again comes to another.",
        ("outcome", "error_code", "preset"),
    ),
    Family("vgen_attempts", "Attempts at a stage that ended.", ("stage", "outcome")),
    Family("vgen_retries", "Attempts that ended without a result and have to be made again.", ("cause",)),
    Family("vgen_gpu_busy_seconds", "Time of attempts on GPUs, by GPU type.", ("gpu_type",)),
    Family("vgen_gpu_seconds", "Time of attempts on GPUs, by whose they were.", ("tenant", "preset")),
    Family("vgen_cost", "Cost of attempts on GPUs, by the prices of the settings.", ("tenant",)),
    Family("vgen_model_loads", "Models that GPU workers loaded.", ("preset",)),
    Family("vgen_checkpoint_resumes", "Attempts that went on from a checkpoint."),
    Family("vgen_http_requests", "Requests that servers answered.", ("route", "method", "code")),
)
HISTOGRAMS = (
    Family("vgen_stage_duration_seconds", "Time of attempts that are done, by stage.", ("stage", "preset", "gpu_type")),
    Family("vgen_clip_duration_seconds", "Time from submission to the finished clip.", ("preset",)),
    Family("vgen_queue_wait_seconds", "Time from submission to a clip's first attempt at generating."),
    Family(
        "vgen_http_request_duration_seconds", "Time from a request to the end of its answer.", ("route",), BUCKETS_S
    ),
)
_JOBS = Family("vgen_jobs", "Jobs that have not ended.", ("state", "preset"))
_QUEUE_JOBS = Family("vgen_queue_jobs", "Clips that wait for a GPU.", ("gpu_type",))
_QUEUE_OLDEST = Family("vgen_queue_oldest_seconds", "Time since the oldest of them was submitted.", ("gpu_type",))
_QUEUE_GPU = Family(
    "vgen_queue_gpu_seconds", "GPU time that they are expected to take; absent while unknown.", ("gpu_type",)
)
_WORKERS = Family("vgen_workers", "Live workers: ready, loading or draining.", ("gpu_type", "state"))
GAUGES = (_JOBS, _QUEUE_JOBS, _QUEUE_OLDEST, _QUEUE_GPU, _WORKERS)

Values = Mapping[str, Mapping[str, Mapping[str, float]]]


def collect(values: Values, gauges: Gauges) -> Iterator[Metric]:
    """The metrics; ``values`` are those that ``totals.read`` returns."""
    for family in COUNTERS:
        yield _counter(family, values.get(family.name, {}))
    for family in HISTOGRAMS:
        yield _histogram(family, values.get(family.name, {}))
    yield _gauge(_JOBS, (((state.value, preset), count) for (state, preset), count in gauges.jobs.items()))
    queues = gauges.queues.items()
    yield _gauge(_QUEUE_JOBS, (((kind,), queue.jobs) for kind, queue in queues))
    yield _gauge(_QUEUE_OLDEST, (((kind,), queue.oldest_s) for kind, queue in queues))
    known = [(kind, queue.gpu_seconds) for kind, queue in queues if queue.gpu_seconds is not None]
    yield _gauge(_QUEUE_GPU, (((kind,), seconds) for kind, seconds in known))
    yield _gauge(_WORKERS, gauges.workers.items())


def _counter(family: Family, by_labels: Mapping[str, Mapping[str, float]]) -> Metric:
    metric = CounterMetricFamily(family.name, family.says, labels=family.labels)
    if not family.labels and not by_labels:
        metric.add_metric((), 0)
    for text, values in by_labels.items():
        metric.add_metric(_values_of(family, text), values[totals.COUNTER])
    return metric


def _histogram(family: Family, by_labels: Mapping[str, Mapping[str, float]]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.says, labels=family.labels)
    for text, values in by_labels.items():
        count, buckets = 0.0, []
        for bound in (*map(str, family.buckets), "+Inf"):
            count += values.get(bound, 0.0)
            buckets.append((bound, count))
        metric.add_metric(_values_of(family, text), buckets, values[totals.SUM])
    return metric


def _gauge(family: Family, values: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    metric = GaugeMetricFamily(family.name, family.says, labels=family.labels)
    for labels, value in sorted(values):
        metric.add_metric(labels, value)
    return metric


def _values_of(family: Family, text: str) -> list[str]:
    labels = totals.labels_of(text)
    return [labels[name] for name in family.labels]
