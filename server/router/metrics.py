"""``/router/metrics``: what this router carries and has carried, for Prometheus.

Everything is of this process: counters begin at 0 when it starts. Replicas are labelled by name, never by address.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from server.metrics.requests import BUCKETS_S
from server.router.registry import Load, Replica, ReplicaRegistry, ReplicaStatus

NO_REPLICA = "none"
"""The label of what no replica had a part in."""
Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reload:
    """When the configuration in use was read, in Unix seconds, and what came of the last attempt to read it."""

    at: float
    problem: str | None = None
    """Why the last attempt changed nothing; None: it succeeded."""


@dataclass
class RouterMetrics:
    """Counts of what the router did."""

    requests: Counter[Labels] = field(default_factory=Counter)
    """HTTP requests that ended, by replica and by the status that their clients got."""
    sessions: Counter[Labels] = field(default_factory=Counter)
    """WebSocket sessions that ended, by replica and by how."""
    connect_failures: Counter[Labels] = field(default_factory=Counter)
    """Connections that replicas did not take."""
    checks: Counter[Labels] = field(default_factory=Counter)
    """Health checks, by replica and outcome."""
    _durations: dict[str, Counter[float]] = field(default_factory=dict)
    """By replica: requests whose time was at most that bucket's, and no lower one's."""
    _seconds: Counter[str] = field(default_factory=Counter)

    def request_ended(self, replica: str, status: int, seconds: float) -> None:
        """Count one request; ``seconds`` from its head to the end of its answer."""
        self.requests[replica, str(status)] += 1
        bound = next((each for each in BUCKETS_S if seconds <= each), float("inf"))
        self._durations.setdefault(replica, Counter())[bound] += 1
        self._seconds[replica] += seconds  # type: ignore[assignment]

    def check_ended(self, replica: Replica, succeeded: bool) -> None:
        self.checks[replica.name, "ok" if succeeded else "failed"] += 1

    def collect(self, registry: ReplicaRegistry, *, draining: bool, reload: Reload) -> Iterator[Metric]:
        """Yield every metric, in the library's terms."""
        replicas = {each.name: each for each in (*registry.leaving, *registry.replicas)}
        yield _gauge("vgen_router_replica_healthy", "Whether the replica's checks call it healthy.", {
            name: each.health.status is ReplicaStatus.HEALTHY for name, each in replicas.items()
        })  # fmt: skip
        yield _gauge("vgen_router_replica_draining", "Whether the replica gets nothing new by order.", {
            name: each.draining or each.removed for name, each in replicas.items()
        })  # fmt: skip
        yield _gauge("vgen_router_replica_sessions", "WebSocket sessions that run on the replica.", {
            name: each.running[Load.SESSION] for name, each in replicas.items()
        })  # fmt: skip
        yield _gauge("vgen_router_replica_requests", "HTTP requests that run on the replica.", {
            name: each.running[Load.REQUEST] for name, each in replicas.items()
        })  # fmt: skip
        yield _counter(
            "vgen_router_requests", "HTTP requests that ended, by the status of the answer.", self.requests, "code"
        )
        yield self._histogram()
        yield _counter("vgen_router_sessions", "WebSocket sessions that ended, by how they did.", self.sessions, "end")
        yield _counter(
            "vgen_router_connect_failures", "Connections that the replica did not take.", self.connect_failures
        )
        yield _counter("vgen_router_health_checks", "Health checks of the replica, by outcome.", self.checks, "outcome")
        yield GaugeMetricFamily("vgen_router_draining", "Whether the router takes nothing new.", value=float(draining))
        yield GaugeMetricFamily(
            "vgen_router_config_last_reload_successful",
            "Whether the configuration could be used when it was last read.",
            value=float(reload.problem is None),
        )
        yield GaugeMetricFamily(
            "vgen_router_config_last_reload_success_timestamp_seconds",
            "When the configuration that is in use was read.",
            value=reload.at,
        )

    def _histogram(self) -> Metric:
        metric = HistogramMetricFamily(
            "vgen_router_request_duration_seconds",
            "Time from a request's head to the end of its answer.",
            labels=("replica",),
        )
        for replica, counts in sorted(self._durations.items()):
            total, buckets = 0, []
            for bound in (*BUCKETS_S, float("inf")):
                total += counts[bound]
                buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), float(total)))
            metric.add_metric((replica,), buckets, self._seconds[replica])
        return metric


def _gauge(name: str, says: str, values: Mapping[str, float]) -> Metric:
    metric = GaugeMetricFamily(name, says, labels=("replica",))
    for replica, value in sorted(values.items()):
        metric.add_metric((replica,), float(value))
    return metric


def _counter(name: str, says: str, counts: Mapping[Labels, int], *labels: str) -> Metric:
    metric = CounterMetricFamily(name, says, labels=("replica", *labels))
    for values, count in sorted(counts.items()):
        metric.add_metric(values, count)
    return metric
