"""A client that reads slowly holds up its own session, and one that reads nothing is let go."""

from __future__ import annotations

import asyncio

import pytest
from starlette.websockets import WebSocketDisconnect

from server.stream.messages import QueueStatus
from server.stream.outbox import ClientTooSlowError, Outbox


class Channel:
    """A connection that takes messages while ``open`` is set."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.sent: list[str | bytes] = []

    async def send_text(self, data: str) -> None:
        await self.open.wait()
        self.sent.append(data)

    async def send_bytes(self, data: bytes) -> None:
        await self.open.wait()
        self.sent.append(data)


def test_the_buffer_is_bounded_and_keeps_the_order() -> None:
    async def watch() -> None:
        channel = Channel()
        outbox = Outbox(channel, max_bytes=100)
        sending = asyncio.create_task(outbox.run())
        putting = asyncio.create_task(_put_all(outbox, 20))
        await asyncio.sleep(0.1)
        assert not putting.done()
        channel.open.set()
        await putting
        await outbox.put(QueueStatus(position=1, queue_depth=1))
        await outbox.close()
        await sending
        assert channel.sent[:-1] == [bytes([number]) * 50 for number in range(20)]
        assert '"queue_status"' in str(channel.sent[-1])

    asyncio.run(watch())


async def _put_all(outbox: Outbox, count: int) -> None:
    for number in range(count):
        await outbox.put(bytes([number]) * 50)


def test_a_client_that_takes_nothing_is_let_go_and_nobody_waits_for_it() -> None:
    async def watch() -> None:
        outbox = Outbox(Channel(), max_bytes=100, stall_s=0.05)
        sending = asyncio.create_task(outbox.run())
        await _put_all(outbox, 20)
        with pytest.raises(ClientTooSlowError):
            await sending
        await _put_all(outbox, 20)

    asyncio.run(watch())


def test_a_connection_that_is_closed_ends_the_sending() -> None:
    class Closed(Channel):
        async def send_text(self, data: str) -> None:
            raise RuntimeError("the socket is closed")

    async def watch() -> None:
        outbox = Outbox(Closed())
        sending = asyncio.create_task(outbox.run())
        await outbox.put(QueueStatus(position=1, queue_depth=1))
        with pytest.raises(WebSocketDisconnect):
            await sending

    asyncio.run(watch())
