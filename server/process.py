"""The process of `vgen serve`: uvicorn, and in solo mode the line beside it."""

import contextlib
import math
import socket
import threading
from collections.abc import Iterator, Sequence

import uvicorn
from starlette.types import ASGIApp

from db.session import Database
from pipeline.settings import Settings
from server.app import create_app, create_mock_app
from server.connections import Connection, Socket
from server.stream import ServeFile, StreamService
from server.stream.limits import MAX_INIT_BYTES
from service.keys import KeyRule
from tasks.hosts.standing_line import StandingLine

KEEP_ALIVE_S = 75
"""Longer than proxies keep an idle connection, so that none sends a request into one that is just closed."""


def serve(
    settings: Settings,
    database: Database,
    listener: socket.socket,
    stopping: threading.Event,
    *,
    key_rule: KeyRule = KeyRule.ONCE_ANY_EXISTS,
    allowed_origins: Sequence[str] = (),
    file: ServeFile | None = None,
) -> None:
    """Answer requests until ``stopping`` is set and those that were begun are answered; in solo mode work, too."""
    streams = StreamService.of_line(settings, database, file)
    app = create_app(settings, database, stopping, key_rule=key_rule, allowed_origins=allowed_origins, streams=streams)
    with contextlib.ExitStack() as stack:
        stack.callback(streams.close)
        line = stack.enter_context(StandingLine(settings, database, stopping)) if settings.solo else None
        _answer(app, settings, listener, stopping)
        if line is not None and line.error is not None:
            raise line.error


def serve_mock(
    settings: Settings,
    streams: StreamService,
    listener: socket.socket,
    stopping: threading.Event,
    *,
    allowed_origins: Sequence[str] = (),
) -> None:
    """Answer with sessions that need no model until ``stopping`` is set; nothing is stored."""
    database = Database("sqlite://")  # of which nothing is asked
    try:
        _answer(create_mock_app(settings, streams, database, allowed_origins), settings, listener, stopping)
    finally:
        streams.close()
        database.close()


def _answer(app: ASGIApp, settings: Settings, listener: socket.socket, stopping: threading.Event) -> None:
    config = uvicorn.Config(
        app,
        http=Connection,
        ws=Socket,
        ws_max_size=MAX_INIT_BYTES,
        ws_per_message_deflate=False,  # pictures are compressed already, and a small message may unpack to a huge one
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.serve.drain_s),
    )
    _Server(config, stopping).run(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn, which leaves signals to the command that started it."""

    def __init__(self, config: uvicorn.Config, stopping: threading.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._stopping.is_set()
