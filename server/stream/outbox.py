"""What is on its way to a client: a bounded buffer, and the one task that sends."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from pydantic import BaseModel
from starlette.websockets import WebSocketDisconnect

MAX_BYTES = 8 * 1024 * 1024
"""A client that is behind by more holds its own session up, and nobody else's."""
STALL_S = 60.0
"""A client that takes nothing for so long is closed."""


class ClientTooSlowError(Exception):
    """The client did not take what was sent to it."""


class Sends(Protocol):
    """What messages are sent through; of a connection that is closed a RuntimeError is raised, or a disconnect."""

    async def send_text(self, data: str) -> None:
        """Send a text message."""

    async def send_bytes(self, data: bytes) -> None:
        """Send a binary message."""


class Outbox:
    """Messages in the order in which they were put; who puts waits while the buffer is full."""

    def __init__(self, channel: Sends, *, max_bytes: int = MAX_BYTES, stall_s: float = STALL_S) -> None:
        self._channel = channel
        self._max_bytes = max_bytes
        self._stall_s = stall_s
        self._items: deque[str | bytes] = deque()
        self._bytes = 0
        self._changed = asyncio.Condition()
        self._closing = False

    async def put(self, item: BaseModel | bytes) -> None:
        """Add a message; of a client that is gone it is dropped."""
        content = item if isinstance(item, bytes) else item.model_dump_json()
        async with self._changed:
            await self._changed.wait_for(lambda: self._bytes < self._max_bytes or self._closing)
            if not self._closing:
                self._items.append(content)
                self._bytes += len(content)
                self._changed.notify_all()

    async def run(self) -> None:
        """Send until ``close``. Raises ClientTooSlowError, and WebSocketDisconnect where the client is gone."""
        try:
            while True:
                async with self._changed:
                    await self._changed.wait_for(lambda: bool(self._items) or self._closing)
                    if not self._items:
                        return
                    content = self._items.popleft()
                await self._send(content)
                async with self._changed:
                    self._bytes -= len(content)
                    self._changed.notify_all()
        finally:
            async with self._changed:
                self._closing = True
                self._changed.notify_all()

    async def close(self) -> None:
        """Have ``run`` end once everything was sent."""
        async with self._changed:
            self._closing = True
            self._changed.notify_all()

    async def _send(self, content: str | bytes) -> None:
        try:
            async with asyncio.timeout(self._stall_s):
                if isinstance(content, bytes):
                    await self._channel.send_bytes(content)
                else:
                    await self._channel.send_text(content)
        except TimeoutError:
            raise ClientTooSlowError(f"the client took nothing for {self._stall_s:g} s") from None
        except RuntimeError as error:  # Starlette's, once the connection is closed
            raise WebSocketDisconnect from error
