"""The router as an application: its own few paths, and everything else for a replica."""

import contextlib
import hmac
import logging
import math
import ssl
import time
from typing import Any

import httpcore
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.nearest import did_you_mean
from server.errors import ApiError, answer, internal_error
from server.router.config import RouterConfig
from server.router.health_checks import HealthChecks, HttpProbe
from server.router.http_proxy import AnswerCutError, HttpProxy, none_takes
from server.router.registry import Load, Replica, ReplicaRegistry
from server.router.websocket_bridge import Client, WebSocketBridge

logger = logging.getLogger(__name__)
OWN = "/router/"
"""The beginning of the router's own paths, beside ``/status``."""
_IDLE_S = 15.0
"""A connection to a replica is kept for so long without a request: less than servers keep it."""
_MAX_RETRY_AFTER_S = 120
"""OpenAI's SDKs do not retry at all where they are told to wait for longer."""


class Router:
    """One ASGI application. Requests wait until every replica was checked once."""

    def __init__(self, config: RouterConfig, *, admin_key: str | None = None) -> None:
        self.config = config
        self.registry = ReplicaRegistry(
            config.replicas, failure_threshold=config.failure_threshold, recovery_threshold=config.recovery_threshold
        )
        self.draining = False
        """It takes nothing new, and ends when what runs has ended."""
        self._admin_key = admin_key
        secure = any(each.url.startswith("https:") for each in config.replicas)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context() if secure else None,
            max_connections=None,
            max_keepalive_connections=100,
            keepalive_expiry=_IDLE_S,
        )
        self.checks = HealthChecks(self.registry, HttpProbe(self._pool, config), config.health_check_interval_seconds)
        self._http = HttpProxy(config, self.registry, self.checks, self._pool)
        self.bridge = WebSocketBridge(config, self.registry, self.checks)

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
        try:
            own = self._own(scope)
            if own is not None:
                await own(scope, receive, send)
                return
            if self.draining:
                raise ApiError(503, "the router stops; try again in a few seconds", code="draining")
            await self.checks.each_was_asked()
            await self._http(scope, receive, send)
        except ApiError as error:
            await self._refusal(error)(scope, receive, send)
        except AnswerCutError:
            raise
        except Exception:
            logger.exception("request failed", extra={"path": scope["path"]})
            with contextlib.suppress(RuntimeError):  # half an answer is out
                await internal_error()(scope, receive, send)
                return
            raise

    def _refusal(self, error: ApiError) -> JSONResponse:
        """The answer to a request that no replica answered; a 503 says when it is worth asking again."""
        if error.status == 503:
            seconds = math.ceil(self.config.health_check_interval_seconds)
            error.headers.setdefault("retry-after", str(min(max(seconds, 1), _MAX_RETRY_AFTER_S)))
        return answer(error)

    def _own(self, scope: Scope) -> ASGIApp | None:
        """The answer to a request for one of the router's own paths; None: it is a replica's. Raises ApiError."""
        path: str = scope["path"]
        if path in ("/status", "/router/status"):
            _require_method(scope, "GET", "HEAD")
            return JSONResponse(self.status())
        if not path.startswith(OWN):
            return None
        if path == "/router/health":
            _require_method(scope, "GET", "HEAD")
            return self._health()
        match path.removeprefix(OWN).split("/"):
            case ["replicas"]:
                _require_method(scope, "GET", "HEAD")
                return JSONResponse(self.status())
            case ["replicas", name, "drain" | "resume" as verb]:
                _require_method(scope, "POST")
                self._require_admin(scope)
                replica = self._replica(name)
                replica.draining = verb == "drain"
                logger.warning("replica %s: %s was asked for", name, verb)
                return JSONResponse(_shown(replica))
        raise ApiError(404, f"{scope['method']} {path[:200]}: not a path of the router", code="unknown_url")

    def status(self) -> dict[str, Any]:
        """Every replica as this router sees it, and what the router carries."""
        return {
            "status": "draining" if self.draining else "ok",
            "sessions": self.registry.running(Load.SESSION),
            "requests": self.registry.running(Load.REQUEST),
            "ts": time.time(),
            "replicas": [_shown(replica) for replica in self.registry.replicas],
        }

    def _health(self) -> Response:
        usable = sum(each.takes_more for each in self.registry.replicas)
        if self.draining:
            raise ApiError(503, "the router stops", code="draining")
        if not usable:
            raise none_takes()
        return JSONResponse({"status": "ok", "service": "vgen-router", "healthy_replicas": usable})

    def _replica(self, name: str) -> Replica:
        replica = self.registry.find(name)
        if replica is None:
            names = [each.name for each in self.registry.replicas]
            hint = did_you_mean(name, names) or f"they are: {', '.join(names)}"
            raise ApiError(404, f"there is no replica {name[:100]!r}: {hint}".rstrip(), code="replica_not_found")
        return replica

    def _require_admin(self, scope: Scope) -> None:
        if self._admin_key is None:
            text = "admin requests need `admin_key_file` in the router's configuration"
            raise ApiError(403, text, code="admin_disabled")
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        expected = f"Bearer {self._admin_key}".encode()
        if len(given) != 1 or not hmac.compare_digest(given[0], expected):
            text = "the router's admin key is needed: send it as `Authorization: Bearer KEY`"
            raise ApiError(401, text, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def _require_method(scope: Scope, *methods: str) -> None:
    if scope["method"] not in methods:
        text = f"{scope['method']} {scope['path'][:200]}: use {' or '.join(methods)}"
        raise ApiError(405, text, code="method_not_allowed", headers={"allow": ", ".join(methods)})


def _shown(replica: Replica) -> dict[str, Any]:
    health = replica.health
    return {
        "url": replica.url,
        "name": replica.name,
        "primary": replica.endpoint.primary,
        "weight": replica.endpoint.weight,
        "status": health.status.value,
        "draining": replica.draining,
        "sessions": replica.running[Load.SESSION],
        "requests": replica.running[Load.REQUEST],
        "last_ok_at": health.last_ok_at,
        "last_failure_at": health.last_failure_at,
        "last_latency_ms": health.last_latency_ms,
        "last_error": health.last_error,
        "consecutive_failures": health.consecutive_failures,
    }
