"""The process of `vgen serve`: uvicorn, and in solo mode the line beside it."""

import contextlib
import math
import socket
import threading
from collections.abc import Iterator, Sequence

import uvicorn

from db.session import Database
from pipeline.settings import Settings
from server.app import create_app
from server.connections import Connection
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
) -> None:
    """Answer requests until ``stopping`` is set and those that were begun are answered; in solo mode work, too."""
    config = uvicorn.Config(
        create_app(settings, database, stopping, key_rule=key_rule, allowed_origins=allowed_origins),
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.serve.drain_s),
    )
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(StandingLine(settings, database, stopping)) if settings.solo else None
        _Server(config, stopping).run(sockets=[listener])
        if line is not None and line.error is not None:
            raise line.error


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
