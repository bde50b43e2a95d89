"""The process of `vgen router-serve`: uvicorn, which stops when the last session has ended."""

import asyncio
import contextlib
import logging
import resource
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from server.connections import Connection
from server.router.app import Router
from server.router.config import RouterConfig
from server.router.websocket_bridge import ABORT, PING_S

logger = logging.getLogger(__name__)
KEEP_ALIVE_S = 75
_ENDING_S = 5.0
"""What still runs when the time to drain is over has so long to be told."""


class Socket(WebSocketsSansIOProtocol):
    """uvicorn's WebSockets; the application may cut one whose client takes nothing any more."""

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if scope := getattr(self, "scope", None):
            scope["extensions"][ABORT] = self.transport.abort


def run(config: RouterConfig, listener: socket.socket, stopping: threading.Event, *, admin_key: str | None) -> None:
    """Route until ``stopping`` is set and what runs has ended, or ``config.drain_seconds`` are over."""
    _allow_many_files()
    router = Router(config, admin_key=admin_key)
    options = uvicorn.Config(
        router,
        http=Connection,
        ws=Socket,
        ws_max_size=config.max_message_bytes,
        ws_ping_interval=PING_S,
        ws_ping_timeout=config.stall_timeout_seconds,
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(_ENDING_S),
    )
    _Server(options, router, stopping).run(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn, which leaves signals to the command, and goes on listening while the router drains.

    So a load balancer before it is answered, and hears that nothing new is taken.
    """

    def __init__(self, options: uvicorn.Config, router: Router, stopping: threading.Event) -> None:
        super().__init__(options)
        self._router = router
        self._stopping = stopping
        self._deadline: float | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if await super().on_tick(counter):
            return True
        if not self._stopping.is_set():
            return False
        now = asyncio.get_running_loop().time()
        if self._deadline is None:
            self._router.draining = True
            self._deadline = now + self._router.config.drain_seconds
            logger.warning("the router drains: it takes nothing new")
        if now >= self._deadline:
            self._router.bridge.stopping.set()
        return self._router.idle or now >= self._deadline + _ENDING_S


def _allow_many_files() -> None:
    """Raise the limit of open files as far as it may go: a session has two connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
