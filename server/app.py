"""The application: every route, and what stands before all of them."""

import threading
from importlib.metadata import version

from fastapi import FastAPI
from starlette.types import ASGIApp

from db.session import Database
from pipeline.settings import Settings
from server import openai
from server.database import Line
from server.errors import ERRORS, add_handlers
from server.limits import BodyLimits
from server.request_ids import RequestIds


def make_api() -> FastAPI:
    """Return every route, without the line behind them; docs/http-api.md is written from it."""
    app = FastAPI(title="vgen", version=version("vgen"), docs_url=None, redoc_url=None, responses=ERRORS)
    add_handlers(app)
    app.include_router(openai.router, prefix="/v1")
    return app


def create_app(settings: Settings, database: Database, stopping: threading.Event | None = None) -> ASGIApp:
    """The line over HTTP. It keeps nothing but the settings and connections: any number of them serve one line."""
    app = make_api()
    app.state.line = Line(settings, database, stopping or threading.Event())
    return RequestIds(BodyLimits(app, settings.serve))
