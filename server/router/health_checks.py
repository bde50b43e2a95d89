"""Health checks: each replica is asked in turn of its own, so that a slow one delays no other."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpcore

from server.router.addresses import origin_of
from server.router.current import Current
from server.router.headers import LOOP_STATUS, with_host, with_via
from server.router.registry import Replica, ReplicaRegistry, ReplicaStatus

logger = logging.getLogger(__name__)
_PAUSE_S = 0.2
"""Between two checks that clients asked for: many at once lead to no more than five checks a second."""
Probe = Callable[[Replica], Awaitable[float]]
"""Ask one replica; return the answer's latency in ms. Raises ProbeFailedError."""


class ProbeFailedError(Exception):
    """A replica did not say that it is healthy; the text says what it did."""


class HttpProbe:
    """Asks for the health path; a status below 400 in time is health. No redirect is followed."""

    def __init__(self, pool: httpcore.AsyncConnectionPool, current: Current) -> None:
        self._pool = pool
        self._current = current

    async def __call__(self, replica: Replica) -> float:
        scheme, host, port = origin_of(replica.url)
        config = self._current.config
        target, timeout_s = config.health_check_path.encode(), config.health_check_timeout_seconds
        url = httpcore.URL(scheme=scheme, host=host, port=port, target=target)
        headers = with_via([(b"accept", b"*/*"), (b"user-agent", b"vgen-router")], self._current.identity)
        headers = with_host(headers, replica.url)
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(timeout_s):
                async with self._pool.stream("GET", url, headers=headers) as answer:
                    status = answer.status
        except TimeoutError:
            raise ProbeFailedError(f"no answer within {timeout_s:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise ProbeFailedError(f"{type(error).__name__}: {error}".removesuffix(": ")) from None
        if status == LOOP_STATUS:
            raise ProbeFailedError(f"answered {status}: its address leads back to this router")
        if status >= 400:
            raise ProbeFailedError(f"answered {status}")
        return (time.perf_counter() - begun) * 1000


@dataclass
class _Watch:
    """The checks of one replica."""

    early: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is to be checked before its time."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it was checked once, or is not watched any more."""
    task: asyncio.Task[None] | None = None


class HealthChecks:
    """Checks all replicas again and again, from ``start`` to ``stop``."""

    def __init__(
        self, registry: ReplicaRegistry, probe: Probe, interval_s: float, on_check: Callable[[Replica, bool], None]
    ) -> None:
        self._registry = registry
        self._probe = probe
        self._on_check = on_check
        """Told of every check, and whether it succeeded."""
        self.interval_s = interval_s
        self._watches: dict[Replica, _Watch] = {}
        self._first: tuple[_Watch, ...] = ()

    async def start(self) -> None:
        self.follow()
        self._first = tuple(self._watches.values())

    async def stop(self) -> None:
        tasks = [self._end(replica) for replica in list(self._watches)]
        await asyncio.gather(*tasks, return_exceptions=True)

    def follow(self) -> None:
        """Check the replicas that the registry has now, all of them at once, and no others."""
        for replica in [each for each in self._watches if each not in self._registry.replicas]:
            self._end(replica)
        for replica in self._registry.replicas:
            if (watch := self._watches.get(replica)) is not None:
                watch.early.set()
                continue
            watch = self._watches[replica] = _Watch()
            watch.task = asyncio.create_task(self._watch(replica, watch))

    def _end(self, replica: Replica) -> asyncio.Task[None]:
        watch = self._watches.pop(replica)
        watch.asked.set()
        assert watch.task is not None
        watch.task.cancel()
        return watch.task

    async def each_was_asked(self) -> None:
        """Wait until every replica has been checked once: before that nobody knows which are healthy.

        Those that came with a later configuration are not waited for.
        """
        for watch in self._first:
            await watch.asked.wait()

    def suspect(self, replica: Replica) -> None:
        """A client found that the replica takes no connection: others are tried first, and it is checked at once."""
        replica.suspect = True
        if (watch := self._watches.get(replica)) is not None:
            watch.early.set()

    async def _watch(self, replica: Replica, watch: _Watch) -> None:
        while True:
            await self.check(replica)
            watch.asked.set()
            try:
                async with asyncio.timeout(self.interval_s):
                    await watch.early.wait()
            except TimeoutError:
                continue
            watch.early.clear()
            await asyncio.sleep(min(_PAUSE_S, self.interval_s))

    async def check(self, replica: Replica) -> None:
        """Ask a replica once, and record what came of it."""
        try:
            latency_ms = await self._probe(replica)
        except ProbeFailedError as error:
            changed = self._registry.record_failure(replica, str(error))
        except Exception as error:  # a bug: the replica counts as unhealthy, and the checks go on
            logger.exception("health check failed unexpectedly", extra={"replica": replica.name})
            changed = self._registry.record_failure(replica, f"{type(error).__name__}: {error}")
        else:
            changed = self._registry.record_success(replica, latency_ms)
        self._on_check(replica, replica.health.last_error is None)
        if changed:
            status = replica.health.status
            reason = replica.health.last_error or "the check succeeded"
            level = logging.INFO if status is ReplicaStatus.HEALTHY else logging.WARNING
            logger.log(level, "replica %s (%s) is %s: %s", replica.name, replica.url, status.value, reason)
