"""The router as an application: its own few paths, and everything else for a replica."""

import contextlib
import logging
import math
import secrets
import ssl
import time

import httpcore
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from server.errors import ApiError, answer, internal_error
from server.router.config import RouterConfig
from server.router.connections import cut
from server.router.current import Current
from server.router.headers import LOOP_STATUS, came_through
from server.router.health_checks import HealthChecks, HttpProbe
from server.router.http_proxy import AnswerCutError, Exchange, HttpProxy
from server.router.metrics import Reload, RouterMetrics
from server.router.own_paths import OwnPaths
from server.router.registry import Load, Replica, ReplicaRegistry
from server.router.websocket_bridge import Client, WebSocketBridge

logger = logging.getLogger(__name__)
_IDLE_S = 15.0
"""A connection to a replica is kept for so long without a request: less than servers keep it."""
_MAX_RETRY_AFTER_S = 120
"""OpenAI's SDKs do not retry at all where they are told to wait for longer."""


class Router:
    """One ASGI application. Requests wait until every replica was checked once."""

    def __init__(self, config: RouterConfig, *, admin_key: str | None = None) -> None:
        identity = b"vgen-router-" + secrets.token_hex(8).encode()
        self._current = Current(config, identity)
        self.registry = ReplicaRegistry(
            config.replicas, failure_threshold=config.failure_threshold, recovery_threshold=config.recovery_threshold
        )
        self.draining = False
        """It takes nothing new, and ends when what runs has ended."""
        self.admin_key = admin_key
        self.metrics = RouterMetrics()
        self.last_reload = Reload(time.time())
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(),
            max_connections=None,
            max_keepalive_connections=100,
            keepalive_expiry=_IDLE_S,
        )
        probe, interval_s = HttpProbe(self._pool, self._current), config.health_check_interval_seconds
        self.checks = HealthChecks(self.registry, probe, interval_s, self.metrics.check_ended)
        self._http = HttpProxy(self._current, self.registry, self.checks, self._pool, self.metrics)
        self.bridge = WebSocketBridge(self._current, self.registry, self.checks, self.metrics)
        self._own_paths = OwnPaths(self)

    @property
    def config(self) -> RouterConfig:
        """The configuration in use."""
        return self._current.config

    def use(self, config: RouterConfig, admin_key: str | None) -> tuple[list[Replica], list[Replica]]:
        """Go on with another configuration; return the replicas that are new, and those that were removed.

        What runs on a removed replica goes on. Call it from the thread of the event loop.
        """
        changes = self.registry.replace(
            config.replicas, failure_threshold=config.failure_threshold, recovery_threshold=config.recovery_threshold
        )
        self._current.config, self.admin_key = config, admin_key
        self.checks.interval_s = config.health_check_interval_seconds
        self.checks.follow()
        return changes

    @property
    def idle(self) -> bool:
        """Whether no session and no request runs."""
        return not any(self.registry.running(load) for load in Load)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._request(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await self.checks.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.checks.stop()
        await self._pool.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.draining:
            await receive()
            client = Client(scope, receive, send)
            await self.bridge.turn_away(client, "the router stops; try again in a few seconds", "draining")
            return
        await self.checks.each_was_asked()
        await self.bridge(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        try:
            if came_through(scope["headers"], self._current.identity):
                text = "the request came back to the router that had sent it: a replica's address leads to the router"
                raise ApiError(LOOP_STATUS, text, code="loop_detected")
            if (own := self._own_paths.answer(scope)) is not None:
                await own(scope, receive, send)
                return
            try:
                await self._forward(exchange)
            finally:
                seconds = time.monotonic() - exchange.begun
                self.metrics.request_ended(exchange.replica, exchange.status, seconds)
        except ApiError as error:
            await self._refusal(error)(scope, receive, send)
        except AnswerCutError:
            if not await cut(scope):
                raise
        except Exception:
            logger.exception("request failed", extra={"path": scope["path"]})
            with contextlib.suppress(RuntimeError):  # half an answer is out
                await internal_error()(scope, receive, send)
                return
            if not await cut(scope):
                raise

    async def _forward(self, exchange: Exchange) -> None:
        try:
            if self.draining:
                raise ApiError(503, "the router stops; try again in a few seconds", code="draining")
            await self.checks.each_was_asked()
            await self._http(exchange)
        except ApiError as error:
            exchange.status = error.status
            raise

    def _refusal(self, error: ApiError) -> JSONResponse:
        """The answer to a request that no replica answered; a 503 says when it is worth asking again."""
        if error.status == 503:
            seconds = math.ceil(self.config.health_check_interval_seconds)
            error.headers.setdefault("retry-after", str(min(max(seconds, 1), _MAX_RETRY_AFTER_S)))
        return answer(error)
