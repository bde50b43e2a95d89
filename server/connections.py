"""uvicorn's connections, with a time limit for a request's head, and refusals in the form of all others."""

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from server.errors import error_body

HEAD_S = 15.0
"""A client has so long for the head of a request: who drips it byte by byte holds no connection."""
STOPPING = 1012
"""The close code of a server that stops: RFC 6455's registry calls it a service restart."""


class Connection(H11Protocol):
    """One connection of a client."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_S, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        begins = self.conn.their_state is h11.IDLE and self._head_timer is None
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif begins:  # a part of the next request's head
            self._head_timer = self.loop.call_later(HEAD_S, self._head_is_late)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg, "invalid_http")

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing() and self.conn.their_state is h11.IDLE:
            self._refuse(408, f"the head of the request did not come within {HEAD_S:g} s", "request_timeout")

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, message: str, code: str) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # half an answer is out: no other can follow
            self.transport.close()
            return
        body = json.dumps(error_body(status, message, code=code)).encode()
        headers: Any = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Socket(WebSocketsSansIOProtocol):
    """A WebSocket, whose client is told why it is closed when the server stops."""

    def shutdown(self) -> None:
        if self.close_sent or not self.handshake_complete:
            super().shutdown()
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": STOPPING})
        self.conn.send_close(STOPPING, "server_stops")
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()
