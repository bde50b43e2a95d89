"""The process of `vgen router-serve`: uvicorn, which stops when the last session has ended."""

import asyncio
import contextlib
import logging
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import uvicorn

from server.router.app import Router
from server.router.connections import Request, Socket
from server.router.reload import Configured, Reloader
from server.router.websocket_bridge import PING_S

logger = logging.getLogger(__name__)
KEEP_ALIVE_S = 75
_ENDING_S = 5.0
"""What still runs when the time to drain is over has so long to be told."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What the router is told while it runs."""

    stop: threading.Event = field(default_factory=threading.Event)
    reload: threading.Event = field(default_factory=threading.Event)
    """Set when the configuration is to be read again."""


def run(read: Callable[[], Configured], first: Configured, listener: socket.socket, orders: Orders) -> None:
    """Route until ``orders.stop`` is set and what runs has ended, or ``drain_seconds`` are over.

    ``read`` returns the configuration anew, and raises InputError where it cannot be used.
    """
    _allow_many_files()
    config, admin_key = first
    router = Router(config, admin_key=admin_key)
    options = uvicorn.Config(
        router,
        http=Request,
        ws=Socket,
        ws_ping_interval=PING_S,
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
    _Server(options, router, orders.stop, Reloader(router, read, orders.reload)).run(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn, which leaves signals to the command, and goes on listening while the router drains.

    So a load balancer before it is answered, and hears that nothing new is taken.
    """

    def __init__(self, options: uvicorn.Config, router: Router, stopping: threading.Event, reloader: Reloader) -> None:
        super().__init__(options)
        self._router = router
        self._stopping = stopping
        self._reloader = reloader
        self._deadline: float | None = None
        self._take_limits()

    def _take_limits(self) -> None:
        """Have the connections of clients that come from now on keep the limits of the configuration."""
        self.config.ws_max_size = self._router.config.max_message_bytes
        self.config.ws_ping_timeout = self._router.config.stall_timeout_seconds

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if await super().on_tick(counter):
            return True
        if not self._stopping.is_set():
            if self._reloader.tick():
                self._take_limits()
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
