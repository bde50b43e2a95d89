"""Health checks: each replica is asked in turn of its own, so that a slow one delays no other."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import httpcore

from server.router.addresses import origin_of
from server.router.config import RouterConfig
from server.router.registry import Replica, ReplicaRegistry

logger = logging.getLogger(__name__)
Probe = Callable[[Replica], Awaitable[float]]
"""Ask one replica; return the answer's latency in ms. Raises ProbeFailedError."""


class ProbeFailedError(Exception):
    """A replica did not say that it is healthy; the text says what it did."""


class HttpProbe:
    """Asks for the health path; a status below 400 in time is health. No redirect is followed."""

    def __init__(self, pool: httpcore.AsyncConnectionPool, config: RouterConfig) -> None:
        self._pool = pool
        self._path = config.health_check_path
        self._timeout_s = config.health_check_timeout_seconds

    async def __call__(self, replica: Replica) -> float:
        scheme, host, port = origin_of(replica.url)
        url = httpcore.URL(scheme=scheme, host=host, port=port, target=self._path.encode())
        host_header = replica.url.partition("://")[2].encode()
        headers = [(b"host", host_header), (b"accept", b"*/*"), (b"user-agent", b"vgen-router")]
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                async with self._pool.stream("GET", url, headers=headers) as answer:
                    status = answer.status
        except TimeoutError:
            raise ProbeFailedError(f"no answer within {self._timeout_s:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise ProbeFailedError(f"{type(error).__name__}: {error}".removesuffix(": ")) from None
        if status >= 400:
            raise ProbeFailedError(f"answered {status}")
        return (time.perf_counter() - begun) * 1000


class HealthChecks:
    """Checks all replicas again and again while it is entered."""

    def __init__(self, registry: ReplicaRegistry, probe: Probe, interval_s: float) -> None:
        self._registry = registry
        self._probe = probe
        self._interval_s = interval_s
        self._early = {replica: asyncio.Event() for replica in registry.replicas}
        self._tasks: list[asyncio.Task[None]] = []
        self._first = {replica: asyncio.Event() for replica in registry.replicas}

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(self._watch(replica)) for replica in self._registry.replicas]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def each_was_asked(self) -> None:
        """Wait until every replica has been checked once: before that nobody knows which are healthy."""
        for event in self._first.values():
            await event.wait()

    def suspect(self, replica: Replica) -> None:
        """A client found that the replica takes no connection: others are tried first, and it is checked at once."""
        replica.suspect = True
        self._early[replica].set()

    async def _watch(self, replica: Replica) -> None:
        while True:
            await self.check(replica)
            self._first[replica].set()
            early = self._early[replica]
            try:
                async with asyncio.timeout(self._interval_s):
                    await early.wait()
            except TimeoutError:
                continue
            early.clear()
            await asyncio.sleep(min(_PAUSE_S, self._interval_s))

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
        if changed:
            status = replica.health.status.value
            reason = replica.health.last_error or "the check succeeded"
            logger.warning("replica %s is %s: %s", replica.name, status, reason)


_PAUSE_S = 0.2
"""Between two checks that clients asked for: many at once lead to no more than five checks a second."""
