"""The replicas behind the router: whether each is healthy, what it carries, and which one is next."""

import enum
import itertools
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from server.router.config import ReplicaEndpoint


class ReplicaStatus(enum.Enum):
    """What the health checks say of a replica."""

    UNKNOWN = "unknown"
    """No check has succeeded yet; the first that does makes it healthy."""
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Load(enum.Enum):
    """What a client wants of a replica."""

    SESSION = "session"
    """A WebSocket, which may stay for minutes."""
    REQUEST = "request"


@dataclass
class ReplicaHealth:
    """The results of a replica's health checks. Times are Unix seconds of this host's clock."""

    status: ReplicaStatus = ReplicaStatus.UNKNOWN
    last_ok_at: float | None = None
    last_failure_at: float | None = None
    last_latency_ms: float | None = None
    last_error: str | None = None
    """Why the last check that failed did; None once one has succeeded."""
    consecutive_failures: int = 0
    consecutive_successes: int = 0


@dataclass(eq=False)
class Replica:
    """One replica, as this router sees it."""

    endpoint: ReplicaEndpoint
    health: ReplicaHealth = field(default_factory=ReplicaHealth)
    draining: bool = False
    """An administrator sends nothing new to it."""
    removed: bool = False
    """The configuration names it no longer: it gets nothing new, and is forgotten when nothing runs there."""
    suspect: bool = False
    """It took no connection since its last check that succeeded: others are tried first."""
    running: dict[Load, int] = field(default_factory=lambda: dict.fromkeys(Load, 0))
    """Sessions and requests that this router has with it."""
    chosen_at: int = 0
    """Its place in the order in which replicas were last chosen."""

    @property
    def url(self) -> str:
        return self.endpoint.url

    @property
    def name(self) -> str:
        return self.endpoint.name or self.url

    @property
    def takes_more(self) -> bool:
        return self.health.status is ReplicaStatus.HEALTHY and not self.draining and not self.removed


class ReplicaRegistry:
    """All replicas. Everything happens in one event loop, and nothing here waits. Raises ValueError: there are none."""

    def __init__(
        self, replicas: Sequence[ReplicaEndpoint], *, failure_threshold: int = 3, recovery_threshold: int = 2
    ) -> None:
        self.replicas: tuple[Replica, ...] = ()
        self._leaving: list[Replica] = []
        self._order = itertools.count(1)
        self.replace(replicas, failure_threshold=failure_threshold, recovery_threshold=recovery_threshold)

    @property
    def leaving(self) -> tuple[Replica, ...]:
        """The replicas that were removed while something ran there which has not ended."""
        return tuple(self._leaving)

    def replace(
        self, endpoints: Sequence[ReplicaEndpoint], *, failure_threshold: int, recovery_threshold: int
    ) -> tuple[list[Replica], list[Replica]]:
        """Take another list of replicas, and return those that are new and those that were removed.

        A replica is known by its URL: one that stays keeps its health, its load and whether it drains, whatever else
        is said of it now. Raises ValueError: the list is empty.
        """
        if not endpoints:
            raise ValueError("replicas: must name at least one replica")
        self._failure_threshold, self._recovery_threshold = failure_threshold, recovery_threshold
        before = {each.url: each for each in self.replicas}
        known = {each.url: each for each in self._leaving} | before
        self.replicas = tuple(known.get(each.url) or Replica(each) for each in endpoints)
        for replica, endpoint in zip(self.replicas, endpoints, strict=True):
            replica.endpoint, replica.removed = endpoint, False
        gone = [each for each in before.values() if each not in self.replicas]
        for replica in gone:
            replica.removed = True
        candidates = [*self._leaving, *gone]
        self._leaving = [each for each in candidates if each.removed and any(each.running.values())]
        return [each for each in self.replicas if each.url not in before], gone

    def find(self, name: str) -> Replica | None:
        """Return the replica of that name."""
        return next((each for each in self.replicas if each.name == name), None)

    def select(self, load: Load = Load.SESSION, tried: Container[Replica] = ()) -> Replica | None:
        """Return the replica for a new session or request: of those that are healthy, do not drain and were not tried.

        The primary comes first; then whoever took the last connection that was tried; then who has the fewest of that
        load for its weight, then of the other; then who was chosen longest ago. None: there is no such replica.
        """

        def rank(replica: Replica) -> tuple[bool, bool, float, float, int]:
            own = replica.running[load] / replica.endpoint.weight
            all_ = sum(replica.running.values()) / replica.endpoint.weight
            return replica.suspect, not replica.endpoint.primary, own, all_, replica.chosen_at

        usable = [each for each in self.replicas if each.takes_more and each not in tried]
        return min(usable, key=rank, default=None)

    def why_none(self, tried: Sequence[Replica] = ()) -> str:
        """Return why ``select`` finds no replica, those that were ``tried`` left out."""
        if tried:
            return "no replica takes a connection"
        if any(each.health.status is ReplicaStatus.HEALTHY for each in self.replicas):
            return "every healthy replica is draining"
        return "no replica is healthy"

    @contextmanager
    def carrying(self, replica: Replica, load: Load) -> Iterator[None]:
        """Count one more session or request of the replica for as long as this context lasts."""
        replica.chosen_at = next(self._order)
        replica.running[load] += 1
        try:
            yield
        finally:
            replica.running[load] -= 1
            if replica in self._leaving and not any(replica.running.values()):
                self._leaving.remove(replica)

    def running(self, load: Load) -> int:
        """Return how many sessions or requests all replicas have, those that were removed too."""
        return sum(each.running[load] for each in (*self.replicas, *self._leaving))

    def record_success(self, replica: Replica, latency_ms: float) -> bool:
        """Note a check that succeeded; return whether the replica's status changed."""
        health = replica.health
        before = health.status
        health.last_ok_at, health.last_latency_ms, health.last_error = time.time(), latency_ms, None
        health.consecutive_failures = 0
        health.consecutive_successes += 1
        replica.suspect = False
        if before is ReplicaStatus.UNKNOWN or health.consecutive_successes >= self._recovery_threshold:
            health.status = ReplicaStatus.HEALTHY
        return health.status is not before

    def record_failure(self, replica: Replica, reason: str) -> bool:
        """Note a check that failed; return whether the replica's status changed."""
        health = replica.health
        before = health.status
        health.last_failure_at, health.last_error = time.time(), reason
        health.consecutive_successes = 0
        health.consecutive_failures += 1
        if health.consecutive_failures >= self._failure_threshold:
            health.status = ReplicaStatus.UNHEALTHY
        return health.status is not before
