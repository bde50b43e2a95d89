"""How many requests were answered, and how long each took: kept here for some seconds, then in the rows."""

from __future__ import annotations

import threading
import time
from collections import Counter
from functools import cached_property

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import iter_route_contexts
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from db import measurements
from db.reading import totals
from db.session import Database
from pipeline.errors import ServiceUnavailableError

KEPT_S = 5.0
"""What a server that is killed has not recorded is lost; no count goes back by it."""
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
NO_ROUTE = "none"
"""The route of a path that there is not: what a client made up is no label."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class CountedRequests:
    """Counts the requests that come to the application, those among them that ``limited`` refuses before it."""

    def __init__(self, app: FastAPI, limited: ASGIApp, database: Database, stopping: threading.Event) -> None:
        self._app = app
        self._limited = limited
        self._database = database
        self._stopping = stopping
        self._values: Counter[totals.Key] = Counter()
        self._lock = threading.Lock()
        self._recorded_at = time.monotonic()

    @cached_property
    def _paths(self) -> dict[int, str]:
        """The whole path of each route, by its identity: routes have no hash. Their own paths lack
        the prefixes with which their routers were included."""
        return {
            id(context.original_route): context.path or NO_ROUTE for context in iter_route_contexts(self._app.routes)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._limited(scope, receive, send)
            return
        began, code = time.monotonic(), 500

        async def send_counted(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self._limited(scope, receive, send_counted)
        finally:
            self._count(scope, code, time.monotonic() - began)
        if self._stopping.is_set() or time.monotonic() - self._recorded_at > KEPT_S:
            await run_in_threadpool(self.record)

    def _count(self, scope: Scope, code: int, seconds: float) -> None:
        route = self._paths.get(id(scope.get("route")), NO_ROUTE)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        with self._lock:
            totals.count(self._values, "vgen_http_requests", route=route, method=method, code=str(code))
            totals.observe(self._values, "vgen_http_request_duration_seconds", seconds, buckets=BUCKETS_S, route=route)

    def record(self) -> None:
        """Write what was counted since the last time; while the database is away it is kept."""
        with self._lock:
            values, self._values = self._values, Counter()
            self._recorded_at = time.monotonic()
        try:
            with self._database.transaction() as session:
                measurements.record_values(session, values)
        except ServiceUnavailableError:
            with self._lock:
                self._values.update(values)
