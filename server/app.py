"""The application: every route, and what stands before all of them."""

import threading
from collections.abc import Sequence
from importlib.metadata import version

from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from db.session import Database
from pipeline.settings import Settings
from server import dreamverse, health, metrics, native, openai, pages, stream, svd
from server.database import Line
from server.errors import add_handlers
from server.limits import BodyLimits
from server.metrics.requests import CountedRequests
from server.openapi import describe
from server.query import known_query
from server.request_ids import RequestIds
from server.stream import StreamService
from service.keys import KeyRule


def create_app(
    settings: Settings,
    database: Database,
    stopping: threading.Event | None = None,
    *,
    key_rule: KeyRule = KeyRule.ONCE_ANY_EXISTS,
    allowed_origins: Sequence[str] = (),
    streams: StreamService | None = None,
) -> ASGIApp:
    """The line over HTTP. It keeps nothing but the settings and connections: any number of them serve one line."""
    app = make_api(Line(settings, database, stopping or threading.Event(), key_rule, tuple(allowed_origins)))
    app.state.stream = streams
    app.state.requests = CountedRequests(app, BodyLimits(app, settings.serve), database, app.state.line.stopping)
    counted: ASGIApp = app.state.requests
    return RequestIds(_with_cors(counted, allowed_origins) if allowed_origins else counted)


def create_mock_app(
    settings: Settings, streams: StreamService, database: Database, allowed_origins: Sequence[str] = ()
) -> ASGIApp:
    """Sessions without a model, the page that shows them, and probes: for people who build front ends."""
    app = _bare_app(Line(settings, database, threading.Event(), KeyRule.NEVER, tuple(allowed_origins)))
    app.state.stream = streams
    for router in (stream.mock_router, stream.router, dreamverse.router, pages.stream_router):
        app.include_router(router)
    limited = BodyLimits(app, settings.serve)
    return RequestIds(_with_cors(limited, allowed_origins) if allowed_origins else limited)


def make_api(line: Line | None = None) -> FastAPI:
    """Return every route, with what is handed to them; docs/http-api.md is written from it."""
    app = _bare_app(line)
    strict = [Depends(known_query)]
    app.include_router(health.probes_router)
    app.include_router(metrics.router)
    app.include_router(health.models_router, prefix="/v1", dependencies=strict)
    app.include_router(openai.router, prefix="/v1", dependencies=strict)
    app.include_router(native.router, prefix="/api/v1", dependencies=strict)
    app.include_router(svd.router, dependencies=strict)
    app.include_router(stream.router)
    app.include_router(dreamverse.router)
    app.include_router(pages.router)
    pages.add_unknown_page(app)
    describe(app)
    return app


def _bare_app(line: Line | None) -> FastAPI:
    # A path with a slash too many is told so: a redirect would lead past proxies, and loses the body of some clients.
    app = FastAPI(title="vgen", version=version("vgen"), docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.line, app.state.stream = line, None
    add_handlers(app)
    return app


def _with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Let pages of these sites call the server; keys go in headers, never in cookies."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST", "PATCH", "DELETE"],
        allow_headers=["authorization", "x-api-key", "content-type", "idempotency-key", "last-event-id", "range"],
        expose_headers=["x-request-id", "openai-poll-after-ms", "retry-after", "etag", "content-range"],
    )
