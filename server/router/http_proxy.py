"""HTTP through the router: bodies are streamed both ways, and nothing of them is kept."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import httpcore
from starlette.types import Message, Receive, Scope, Send

from server.errors import ApiError
from server.router.addresses import origin_of, target_of
from server.router.current import Current
from server.router.headers import LOOP_STATUS, Headers, end_to_end, forwarded, with_host, with_via
from server.router.health_checks import HealthChecks
from server.router.metrics import NO_REPLICA, RouterMetrics
from server.router.registry import Load, Replica, ReplicaRegistry

logger = logging.getLogger(__name__)
_NOT_BEGUN = (httpcore.ConnectError, httpcore.ConnectTimeout)
_LOST = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)
_CLIENT_LEFT = 499
"""The status under which requests are counted whose client left before it was answered (nginx has the number)."""


class Exchange:
    """One request of a client and its answer, and what came of them."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        self.begun = time.monotonic()
        self.replica = NO_REPLICA
        """The name of the replica that was asked last."""
        self.status = _CLIENT_LEFT
        """What the client was answered."""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


class HttpProxy:
    """Sends each request to a replica, and its answer back."""

    def __init__(
        self,
        current: Current,
        registry: ReplicaRegistry,
        checks: HealthChecks,
        pool: httpcore.AsyncConnectionPool,
        metrics: RouterMetrics,
    ) -> None:
        self._current = current
        self._registry = registry
        self._checks = checks
        self._pool = pool
        self._metrics = metrics

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request.

        A replica that takes no connection is passed over for another, as long as nothing of the body was sent.

        Raises:
            ApiError: 400, it asks for another host's URL; 408, its body did not come; 502, the replica failed before it
                answered; 503, none takes requests; 504, the answer did not begin in time.
            AnswerCutError: the answer broke off, by the replica or because the client takes nothing.
        """
        scope, config = exchange.scope, self._current.config
        target = target_of(scope)
        if target is None:
            raise ApiError(400, "the request's target must be a path that begins with /", code="invalid_target")
        body = _Body(exchange.receive, scope["headers"], config.stall_timeout_seconds)
        dropped = (b"expect", b"content-length") if body.chunked else (b"expect",)
        headers = forwarded(end_to_end(scope["headers"], without=dropped), scope, config.trusted_proxies)
        headers = with_via(headers, self._current.identity)
        if body.chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        tried: list[Replica] = []
        while (replica := self._registry.select(Load.REQUEST, tried)) is not None:
            tried.append(replica)
            exchange.replica = replica.name
            answer = _Answer(exchange.send, config.stall_timeout_seconds)
            with self._registry.carrying(replica, Load.REQUEST):
                try:
                    await self._exchange(replica, scope["method"], target, headers, body, answer)
                    return
                except _NOT_BEGUN as error:
                    self._checks.suspect(replica)
                    self._metrics.connect_failures[(replica.name,)] += 1
                    logger.warning("replica %s (%s) takes no connection: %s", replica.name, replica.url, error)
                except _LoopError:
                    logger.warning("replica %s (%s) leads back to this router", replica.name, replica.url)
                except _LOST as error:
                    raise self._failed(replica, error, answer) from None
            if body.begun:
                break
        raise none_takes(self._registry.why_none(tried))

    async def _exchange(
        self, replica: Replica, method: str, target: bytes, headers: Headers, body: "_Body", answer: "_Answer"
    ) -> None:
        """Send the request and its answer; when the client goes, the replica's connection is closed."""
        scheme, host, port = origin_of(replica.url)
        url = httpcore.URL(scheme=scheme, host=host, port=port, target=target)
        wait = self._current.config.answer_timeout_seconds
        timeout = {"connect": self._current.config.connect_timeout_seconds, "read": wait, "write": wait}
        request = httpcore.Request(
            method, url, headers=with_host(headers, replica.url), content=body.parts(), extensions={"timeout": timeout}
        )

        async def exchange() -> None:
            response = await self._pool.handle_async_request(request)
            try:
                if response.status == LOOP_STATUS:
                    raise _LoopError
                await answer.send(response)
            finally:
                await response.aclose()

        sending = asyncio.ensure_future(exchange())
        leaving = asyncio.ensure_future(body.client_leaves())
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            await _cancelled(sending, leaving)

    def _failed(self, replica: Replica, error: Exception, answer: "_Answer") -> Exception:
        """The answer to a request whose replica failed; the connection is cut where half of an answer is out."""
        logger.warning("replica %s (%s) failed: %s: %s", replica.name, replica.url, type(error).__name__, error)
        if answer.started:
            return AnswerCutError(f"replica {replica.name} failed in the middle of its answer")
        if isinstance(error, httpcore.TimeoutException):
            text = f"the replica did not answer within {self._current.config.answer_timeout_seconds:g} s"
            return ApiError(504, text, code="upstream_timeout")
        text = "the replica failed before it answered; whether it did the request is unknown"
        return ApiError(502, text, code="replica_failed")


class AnswerCutError(Exception):
    """An answer broke off: the client's connection is cut, so that it sees that a part is missing."""


class _LoopError(Exception):
    """A replica's address leads to this router: nothing was done with the request."""


def none_takes(why: str) -> ApiError:
    """The answer when no replica can be used."""
    return ApiError(503, f"{why}; try again in a few seconds", code="no_healthy_replica")


class _Body:
    """The body of a request, as the client sends it."""

    def __init__(self, receive: Receive, headers: Headers, stall_s: float) -> None:
        self._receive = receive
        self._stall_s = stall_s
        self._complete = asyncio.Event()
        self._gone = asyncio.Event()
        names = {name.lower(): value for name, value in headers}
        self.chunked = b"chunked" in names.get(b"transfer-encoding", b"").lower()
        self._there = self.chunked or names.get(b"content-length", b"0") != b"0"
        self.begun = False
        """Whether any of it was asked of the client: it cannot be sent twice."""

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the body. Raises ApiError: 408, the client sends nothing more."""
        if self._there:
            self.begun = True
            while True:
                message = await self._next()
                if message["type"] == "http.disconnect":
                    self._gone.set()
                    await asyncio.Event().wait()  # the exchange is cancelled: the rest of the body will not come
                if part := message.get("body", b""):
                    yield part
                if not message.get("more_body", False):
                    break
        self._complete.set()

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout(self._stall_s):
                return await self._receive()
        except TimeoutError:
            text = f"nothing of the request's body came for {self._stall_s:g} s"
            raise ApiError(408, text, code="request_timeout", headers={"connection": "close"}) from None

    async def client_leaves(self) -> None:
        """Return when the client has closed its connection."""
        complete = asyncio.ensure_future(self._complete.wait())
        gone = asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait((complete, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancelled(complete, gone)
        while not self._gone.is_set():
            if (await self._receive())["type"] == "http.disconnect":
                self._gone.set()


class _Answer:
    """A replica's answer on its way to the client."""

    def __init__(self, send: Send, stall_s: float) -> None:
        self._send = send
        self._stall_s = stall_s
        self.started = False

    async def send(self, response: httpcore.Response) -> None:
        """Raises AnswerCutError: the client takes nothing any more."""
        start: Message = {
            "type": "http.response.start",
            "status": response.status,
            "headers": end_to_end(response.headers),
        }
        self.started = True
        await self._taken(start)
        async for part in response.aiter_stream():
            await self._taken({"type": "http.response.body", "body": part, "more_body": True})
        await self._taken({"type": "http.response.body", "body": b"", "more_body": False})

    async def _taken(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._stall_s):
                await self._send(message)
        except TimeoutError:
            raise AnswerCutError(f"the client took nothing of its answer for {self._stall_s:g} s") from None


async def _cancelled(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what still runs, and wait for its end."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
