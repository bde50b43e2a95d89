"""Proxies that stand before Postgres, Redis and the store, and misbehave when told to.

All run on one event loop in a thread of the test process. A proxy keeps its port while its server restarts.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

Value = TypeVar("Value")
_CHUNK = 64 * 1024
_HEAD_LIMIT = 256 * 1024
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on, 0 s: close sends RST, so that the other side sees a broken and not an ended connection."""


class Mode(StrEnum):
    """What happens to connections."""

    PASS = "pass"
    REFUSE = "refuse"
    """New ones are reset at once."""
    SWALLOW = "swallow"
    """Half-open: everything is accepted and nothing answered, also on connections that were there before."""


class StoreFault(StrEnum):
    """What happens to one request to the store."""

    ERROR_500 = "500"
    ERROR_503 = "503"
    DENIED = "403"
    SLOW = "slow"
    CUT = "cut"
    """The connection breaks in the middle of the body."""
    WRONG_BODY = "wrong_body"
    """One byte of the body is another one when it reaches the store."""
    VANISHED = "vanished"
    """The answer is 200, and nothing was stored."""


class Proxies:
    """The thread and its loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()
        self.servers: list[asyncio.Server] = []

    def call(self, work: Coroutine[Any, Any, Value]) -> Value:
        """Run a coroutine on the loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def close(self) -> None:
        self.call(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _cancel_all(self) -> None:
        for server in self.servers:
            server.close()
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


@contextlib.contextmanager
def running_proxies() -> Iterator[Proxies]:
    proxies = Proxies()
    try:
        yield proxies
    finally:
        proxies.close()


class Proxy:
    """A TCP proxy in front of a port of 127.0.0.1."""

    def __init__(self, proxies: Proxies, upstream: int) -> None:
        self._proxies = proxies
        self._upstream = upstream
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self.mode = Mode.PASS
        self.delay_s = 0.0
        self.port = proxies.call(self._listen())

    def set(self, mode: Mode) -> None:
        async def change() -> None:
            self.mode = mode
            if mode is Mode.SWALLOW:
                self._open.clear()
            else:
                self._open.set()

        self._proxies.call(change())

    def cut(self) -> int:
        """Reset every connection; how many there were."""

        async def cut_all() -> int:
            found = list(self._writers)
            for writer in found:
                _reset(writer)
            return len(found)

        return self._proxies.call(cut_all())

    def heal(self) -> None:
        """Be a wire again. What was swallowed stays lost: those connections are cut."""
        swallowed = self.mode is Mode.SWALLOW
        self.delay_s = 0.0
        if swallowed:
            self.cut()
        self.set(Mode.PASS)

    async def _listen(self) -> int:
        self._open.set()
        server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, limit=_HEAD_LIMIT)
        self._proxies.servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode is Mode.REFUSE:
            _reset(writer)
            return
        self._writers.add(writer)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            _reset(writer)  # cancelled only when all proxies end
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            await self._both_ways(reader, writer, up_reader, up_writer)
        finally:
            up_writer.close()

    async def _both_ways(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        ways = [
            asyncio.ensure_future(self._pump(reader, up_writer)),
            asyncio.ensure_future(self._pump(up_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(_CHUNK):
            await self._open.wait()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            target.write(data)
            await target.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        link = writer.get_extra_info("socket")
        if link is not None:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@dataclass
class _Rule:
    fault: StoreFault
    method: str
    times: int
    chance: float
    slow_s: float
    dice: random.Random = field(default_factory=random.Random)


class StoreProxy(Proxy):
    """The same for HTTP: one request a connection, each of which may meet a fault."""

    def __init__(self, proxies: Proxies, upstream: int) -> None:
        self._rules: list[_Rule] = []
        self.met: list[StoreFault] = []
        """Faults that requests have met, in order."""
        super().__init__(proxies, upstream)

    def fail(
        self,
        fault: StoreFault,
        *,
        method: str = "PUT",
        times: int = 1,
        chance: float = 1.0,
        seed: int = 0,
        slow_s: float = 1.0,
    ) -> None:
        """Let the next requests of this method meet the fault."""
        self._rules.append(_Rule(fault, method, times, chance, slow_s, random.Random(seed)))

    def heal(self) -> None:
        self._rules.clear()
        super().heal()

    def _next_fault(self, method: str) -> _Rule | None:
        for rule in self._rules:
            if rule.method == method and rule.times > 0 and rule.dice.random() < rule.chance:
                rule.times -= 1
                self.met.append(rule.fault)
                return rule
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        head = await reader.readuntil(b"\r\n\r\n")
        method = head.split(b" ", 1)[0].decode("ascii", "replace")
        # One request a connection: the next one is to be looked at too. The header is not part of the signature.
        head = head[:-2] + b"Connection: close\r\n\r\n"
        rule = self._next_fault(method)
        fault = rule.fault if rule is not None else None
        if fault in (StoreFault.ERROR_500, StoreFault.ERROR_503, StoreFault.DENIED, StoreFault.VANISHED):
            await self._answer(head, reader, writer, fault)
            return
        if rule is not None and fault is StoreFault.SLOW:
            await asyncio.sleep(rule.slow_s)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            up_writer.write(head)
            if fault in (StoreFault.CUT, StoreFault.WRONG_BODY):
                await self._spoil(head, reader, writer, up_writer, fault)
            await self._both_ways(reader, writer, up_reader, up_writer)
        finally:
            up_writer.close()

    async def _answer(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: StoreFault
    ) -> None:
        await _body(head, reader, writer)
        status = {
            StoreFault.ERROR_500: "500 Internal Server Error",
            StoreFault.ERROR_503: "503 Slow Down",
            StoreFault.DENIED: "403 Forbidden",
            StoreFault.VANISHED: "200 OK",
        }[fault]
        extra = 'ETag: "0"\r\n' if fault is StoreFault.VANISHED else ""
        writer.write(f"HTTP/1.1 {status}\r\n{extra}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()

    async def _spoil(
        self,
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_writer: asyncio.StreamWriter,
        fault: StoreFault,
    ) -> None:
        body = await _body(head, reader, writer)
        if fault is StoreFault.CUT:
            up_writer.write(body[: len(body) // 2])
            await up_writer.drain()
            raise ConnectionResetError
        middle = len(body) // 2
        up_writer.write(body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body)
        await up_writer.drain()


async def _body(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The request's whole body; asks for it where the client waits to be asked."""
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
    }
    if fields.get(b"expect", b"").lower() == b"100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
    return await reader.readexactly(int(fields.get(b"content-length", b"0")))
