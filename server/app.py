"""The application: every route, and what stands before all of them."""

from __future__ import annotations

import threading

from fastapi import FastAPI
from starlette.types import ASGIApp

from db.session import Database
from pipeline.settings import Settings
from server import health, metrics, openai, svd
from server.database import Line
from server.errors import add_handlers
from server.metrics.requests import CountedRequests
from server.request_ids import RequestIds


def create_app(settings: Settings, database: Database, stopping: threading.Event | None = None) -> ASGIApp:
    """The line over HTTP. It keeps nothing but the settings and connections: any number of them serve one line."""
    app = FastAPI(title="vgen", docs_url=None, redoc_url=None)
    app.state.line = Line(settings, database, stopping or threading.Event())
    add_handlers(app)
    app.include_router(health.probes_router)
    app.include_router(metrics.router)
    app.include_router(health.models_router, prefix="/v1")
    app.include_router(openai.router, prefix="/v1")
    app.include_router(svd.router)
    app.state.requests = CountedRequests(app, database, app.state.line.stopping)
    return RequestIds(app.state.requests)
