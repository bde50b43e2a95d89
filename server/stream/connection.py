"""A client's connection, whatever protocol it speaks: it is let in, sent to, and closed.

What goes to the client passes the outbox, which alone sends. How the messages look is for the subclasses.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, Protocol

from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from server.auth import Caller
from server.stream import endings
from server.stream.endings import Ending
from server.stream.limits import MessageRate
from server.stream.outbox import ClientTooSlowError, Outbox, Sends
from server.stream.service import StreamService
from server.stream.session import Session, SessionRejectedError
from server.stream.source import SegmentSource, SourceError
from server.stream.wire import InvalidMessageError

logger = logging.getLogger(__name__)

_FLUSH_S = 10.0
"""What is on its way when a session ends has so long to be sent."""


class Channel(Sends, Protocol):
    """A WebSocket that was accepted, or what stands for one."""

    async def receive(self) -> Message:
        """Return the next event of ASGI: ``websocket.receive`` or ``websocket.disconnect``."""

    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        """Close it."""


class Connection(ABC):
    """One client: a subclass says how it is spoken with."""

    def __init__(self, channel: Channel, service: StreamService, caller: Caller) -> None:
        self._channel = channel
        self._service = service
        self._caller = caller
        self._outbox = Outbox(channel)
        self._rate = MessageRate()
        self._session = Session(owner=caller.owner)
        self._source: SegmentSource | None = None
        self._cut: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    @property
    def session(self) -> Session:
        return self._session

    async def run(self) -> None:
        """Serve the client until it or the session ends, and close the channel."""
        try:
            self._service.sessions.add(self._session)
        except SessionRejectedError as error:
            await self._close(endings.rejected(str(error)))
            return
        sending = asyncio.create_task(self._outbox.run())
        end = endings.client_gone(endings.RESTART)
        try:
            end = await self._until_the_end(sending)
        finally:
            await asyncio.shield(self._ended(end, sending))

    def displace(self) -> None:
        """End this conversation: another client has come for its session."""
        self._end_by(endings.taken_over())

    def lose_key(self) -> None:
        """End this conversation: its key was revoked, or has expired."""
        self._end_by(endings.key_lost())

    def _end_by(self, end: Ending) -> None:
        if not self._cut.done():
            self._cut.set_result(end)

    async def _until_the_end(self, sending: asyncio.Task[None]) -> Ending:
        """Run the tasks until one of them ends; how it ended."""
        try:
            return await self._first_end(sending)
        except Ending as end:
            return end
        except ClientTooSlowError as error:
            logger.warning("stream ended", extra={"session_id": self._session.id, "reason": str(error)})
            return endings.client_gone()
        except WebSocketDisconnect as error:
            return endings.client_gone(error.code)
        except SourceError as error:
            return self._failed(error)
        except Exception:
            logger.exception("stream failed", extra={"session_id": self._session.id})
            text = f"an internal error; the server's log has it under the session {self._session.id}"
            return endings.failed("internal_error", text)

    @abstractmethod
    async def _first_end(self, sending: asyncio.Task[None]) -> Ending:
        """Serve the client until something ends; how, or raise it. ``sending`` ends when the client cannot be sent to.

        Raises:
            Ending, ClientTooSlowError, WebSocketDisconnect, SourceError: what ended the session, or the connection.
        """

    @abstractmethod
    def _failed(self, error: SourceError) -> Ending:
        """Return the end of a session that cannot go on after that."""

    async def _first_of(self, works: Sequence[Coroutine[Any, Any, None]], sending: asyncio.Task[None]) -> Ending:
        """Do these works beside each other until one of them ends, or raises; the others are cancelled."""
        begun = [asyncio.create_task(work) for work in works]
        try:
            waited: set[asyncio.Future[Any]] = {*begun, sending, self._cut}
            done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if self._cut in done:
                return self._cut.result()
            for task in done:
                task.result()
            return endings.client_gone()
        finally:
            for task in begun:
                task.cancel()
            await asyncio.gather(*begun, return_exceptions=True)

    async def _ended(self, end: Ending, sending: asyncio.Task[None]) -> None:
        """Give back what the session holds, and tell the client how it ended, if it still reads."""
        session = self._session
        self._service.sessions.remove(session)
        if self._service.watched.get(session.id) is self:
            del self._service.watched[session.id]
        session.end(end.state)
        if self._source is not None:
            try:
                await self._source.close(
                    client_left=end.client_left, state=end.state, reason=end.reason, kept_s=end.kept_s
                )
            except Exception:
                logger.exception("a session was not closed", extra={"session_id": session.id})
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_FLUSH_S):
                if not sending.done():
                    for message in end.messages:
                        await self._outbox.put(message)
                    await self._outbox.close()
                    await sending
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await self._close(replace(end, messages=()))

    async def _close(self, end: Ending) -> None:
        with contextlib.suppress(Exception):  # the client may be gone
            async with asyncio.timeout(_FLUSH_S):
                for message in end.messages:
                    await self._channel.send_text(message.model_dump_json())
                await self._channel.close(end.code, end.reason)

    async def _receive(self) -> str | None:
        """Return a text message; None for a binary one. Raises WebSocketDisconnect."""
        received = await self._channel.receive()
        if received["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(received.get("code") or endings.NORMAL)
        return received.get("text")

    def _refuse_flood(self) -> None:
        """Raises Ending, or the first time InvalidMessageError."""
        if self._rate.exhausted:
            raise endings.flooded()
        if self._rate.first_refusal:
            rule = f"at most {self._rate.per_second:g} a second are read, and those over are dropped"
            raise InvalidMessageError(f"too many messages: {rule}")
