"""The router's own paths: ``/status`` and everything below ``/router/``."""

import hmac
import ipaddress
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from pipeline.nearest import did_you_mean
from server.errors import ApiError
from server.metrics.exposition import exposition
from server.router.http_proxy import none_takes
from server.router.registry import Load, Replica
from server.this_machine import comes_from_this_machine, names_this_machine

if TYPE_CHECKING:
    from server.router.app import Router

logger = logging.getLogger(__name__)
OWN = "/router/"
"""The beginning of the router's own paths, beside ``/status``."""


class OwnPaths:
    """Answers the requests that are for the router itself."""

    def __init__(self, router: "Router") -> None:
        self._router = router
        self._reading: dict[str, Callable[[Scope], Response]] = {
            "/status": self._status,
            "/router/status": self._status,
            "/router/replicas": self._status,
            "/router/replicas/sessions": self._sessions,
            "/router/health": self._health,
            "/router/metrics": self._metrics,
        }

    def answer(self, scope: Scope) -> Response | None:
        """Return the answer where the path is the router's own; None: it is a replica's. Raises ApiError."""
        path: str = scope["path"]
        if (read := self._reading.get(path)) is not None:
            _require_method(scope, "GET", "HEAD")
            return read(scope)
        if not path.startswith(OWN):
            return None
        match path.removeprefix(OWN).split("/"):
            case ["replicas", name, "drain" | "resume" as verb]:
                _require_method(scope, "POST")
                self._require_admin(scope)
                replica = self._replica(name)
                replica.draining = verb == "drain"
                logger.warning("replica %s (%s): %s was asked for", name, replica.url, verb)
                return JSONResponse(shown(replica, with_address=True))
        raise ApiError(404, f"{scope['method']} {path[:200]}: not a path of the router", code="unknown_url")

    def _status(self, scope: Scope) -> Response:
        """Every replica as this router sees it, and what the router carries; addresses for who may see them."""
        router, registry = self._router, self._router.registry
        with_address = self._may_see_addresses(scope)
        problem = router.last_reload.problem
        return JSONResponse(
            {
                "status": "draining" if router.draining else "ok",
                "sessions": registry.running(Load.SESSION),
                "requests": registry.running(Load.REQUEST),
                "ts": time.time(),
                "config": {
                    "read_at": router.last_reload.at,
                    "problem": problem if problem is None or with_address else "the file could not be used",
                },
                "replicas": [
                    shown(replica, with_address=with_address) for replica in (*registry.replicas, *registry.leaving)
                ],
            }
        )

    def _sessions(self, scope: Scope) -> Response:
        """The sessions of each replica, as the monitor of Dreamverse's page reads them."""
        with_address = self._may_see_addresses(scope)
        registry = self._router.registry
        return JSONResponse(
            {
                "replicas": [
                    {
                        "url": replica.url if with_address else replica.name,
                        "healthy": replica.takes_more,
                        "active_sessions": replica.running[Load.SESSION],
                    }
                    for replica in (*registry.replicas, *registry.leaving)
                ]
            }
        )

    def _health(self, scope: Scope) -> Response:
        usable = sum(each.takes_more for each in self._router.registry.replicas)
        if self._router.draining:
            raise ApiError(503, "the router stops", code="draining")
        if not usable:
            raise none_takes(self._router.registry.why_none())
        return JSONResponse({"status": "ok", "service": "vgen-router", "healthy_replicas": usable})

    def _metrics(self, scope: Scope) -> Response:
        router = self._router
        metrics = router.metrics.collect(router.registry, draining=router.draining, reload=router.last_reload)
        return exposition(metrics, Headers(scope=scope).get("accept", ""))

    def _replica(self, name: str) -> Replica:
        registry = self._router.registry
        replica = registry.find(name)
        if replica is None:
            names = [each.name for each in registry.replicas]
            hint = did_you_mean(name, names) or f"they are: {', '.join(names)}"
            raise ApiError(404, f"there is no replica {name[:100]!r}: {hint}".rstrip(), code="replica_not_found")
        return replica

    def _may_see_addresses(self, scope: Scope) -> bool:
        """Return whether a request has the admin key, or comes from this machine and through no proxy from another."""
        if self._has_admin_key(scope):
            return True
        try:
            peer = ipaddress.ip_address(scope["client"][0].partition("%")[0])
        except (TypeError, ValueError):
            return False
        headers = Headers(scope=scope)
        local = (getattr(peer, "ipv4_mapped", None) or peer).is_loopback and "forwarded" not in headers
        return local and names_this_machine(headers.get("host", "")) and comes_from_this_machine(headers)

    def _has_admin_key(self, scope: Scope) -> bool:
        key = self._router.admin_key
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return key is not None and len(given) == 1 and hmac.compare_digest(given[0], f"Bearer {key}".encode())

    def _require_admin(self, scope: Scope) -> None:
        if self._router.admin_key is None:
            text = "admin requests need `admin_key_file` in the router's configuration"
            raise ApiError(403, text, code="admin_disabled")
        if not self._has_admin_key(scope):
            text = "the router's admin key is needed: send it as `Authorization: Bearer KEY`"
            raise ApiError(401, text, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def _require_method(scope: Scope, *methods: str) -> None:
    if scope["method"] not in methods:
        text = f"{scope['method']} {scope['path'][:200]}: use {' or '.join(methods)}"
        raise ApiError(405, text, code="method_not_allowed", headers={"allow": ", ".join(methods)})


def shown(replica: Replica, *, with_address: bool) -> dict[str, Any]:
    """Return what the status says of a replica; without its address also without errors, which may name it."""
    health = replica.health
    return {
        "url": replica.url if with_address else None,
        "name": replica.name,
        "primary": replica.endpoint.primary,
        "weight": replica.endpoint.weight,
        "status": health.status.value,
        "draining": replica.draining,
        "removed": replica.removed,
        "sessions": replica.running[Load.SESSION],
        "requests": replica.running[Load.REQUEST],
        "last_ok_at": health.last_ok_at,
        "last_failure_at": health.last_failure_at,
        "last_latency_ms": health.last_latency_ms,
        "last_error": health.last_error if with_address else None,
        "consecutive_failures": health.consecutive_failures,
    }
