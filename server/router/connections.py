"""uvicorn's connections of clients, which the application may cut without waiting for what was sent to be taken."""

import asyncio
import contextlib
import socket
import struct
from typing import Any, cast

from starlette.types import Scope
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from server.connections import Connection

ABORT = "vgen.abort"
"""The ASGI extension that cuts a client's connection."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends a reset."""


class Request(Connection):
    """A connection of HTTP requests."""

    def handle_events(self) -> None:
        super().handle_events()
        if self.scope is not None:
            extensions: dict[str, Any] = cast("dict[str, Any]", self.scope).setdefault("extensions", {})
            extensions[ABORT] = self._abort

    def _abort(self) -> None:
        if self.scope["http_version"] == "1.0":  # the end of such an answer is the end of its connection
            with contextlib.suppress(OSError, AttributeError):  # the connection is gone already
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


class Socket(WebSocketsSansIOProtocol):
    """A WebSocket."""

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if scope := getattr(self, "scope", None):
            scope["extensions"][ABORT] = self.transport.abort


async def cut(scope: Scope) -> bool:
    """Cut the connection of a client; False: its server cannot."""
    abort = scope.get("extensions", {}).get(ABORT)
    if abort is None:
        return False
    abort()
    await asyncio.sleep(0)  # the server's protocol hears that the connection is lost
    return True
