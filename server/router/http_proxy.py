"""HTTP through the router: bodies are streamed both ways, and nothing of them is kept."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpcore
from starlette.types import Message, Receive, Scope, Send

from server.errors import ApiError
from server.router.addresses import origin_of, target_of
from server.router.config import RouterConfig
from server.router.headers import Headers, end_to_end, forwarded
from server.router.health_checks import HealthChecks
from server.router.registry import Load, Replica, ReplicaRegistry

logger = logging.getLogger(__name__)
NO_REPLICA = "no_healthy_replica"
REPLICA_FAILED = "replica_failed"
_NOT_BEGUN = (httpcore.ConnectError, httpcore.ConnectTimeout)
_LOST = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)


class HttpProxy:
    """Sends each request to a replica, and its answer back."""

    def __init__(
        self, config: RouterConfig, registry: ReplicaRegistry, checks: HealthChecks, pool: httpcore.AsyncConnectionPool
    ) -> None:
        self._config = config
        self._registry = registry
        self._checks = checks
        self._pool = pool
        wait = config.answer_timeout_seconds
        self._timeout = {"connect": config.connect_timeout_seconds, "read": wait, "write": wait}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        A replica that takes no connection is passed over for another, as long as nothing of the body was sent.

        Raises:
            ApiError: 400, it asks for another host's URL; 502, the replica failed before it answered; 503, none takes
                requests; 504, the answer did not begin in time.
        """
        target = target_of(scope)
        if target is None:
            raise ApiError(400, "the request's target must be a path that begins with /", code="invalid_target")
        body = _Body(receive, scope["headers"])
        headers = forwarded(end_to_end(scope["headers"], without=(b"expect",)), scope, self._config.trusted_proxies)
        if body.chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        tried: list[Replica] = []
        while (replica := self._registry.select(Load.REQUEST, tried)) is not None:
            tried.append(replica)
            answer = _Answer(send, is_head=scope["method"] == "HEAD")
            with self._registry.carrying(replica, Load.REQUEST):
                try:
                    await self._exchange(replica, scope["method"], target, headers, body, answer)
                    return
                except _NOT_BEGUN as error:
                    self._checks.suspect(replica)
                    logger.warning("replica %s takes no connection: %s", replica.name, error)
                    if body.begun:
                        break
                except _LOST as error:
                    raise self._failed(replica, error, answer) from None
        raise none_takes(tried)

    async def _exchange(
        self, replica: Replica, method: str, target: bytes, headers: Headers, body: "_Body", answer: "_Answer"
    ) -> None:
        """Send the request and its answer; when the client goes, the replica's connection is closed."""
        scheme, host, port = origin_of(replica.url)
        url = httpcore.URL(scheme=scheme, host=host, port=port, target=target)
        request = httpcore.Request(
            method, url, headers=headers, content=body.parts(), extensions={"timeout": self._timeout}
        )

        async def exchange() -> None:
            response = await self._pool.handle_async_request(request)
            try:
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
        logger.warning("replica %s failed: %s: %s", replica.name, type(error).__name__, error)
        if answer.started:
            return AnswerCutError(f"replica {replica.name} failed in the middle of its answer")
        if isinstance(error, httpcore.TimeoutException):
            text = f"the replica did not answer within {self._config.answer_timeout_seconds:g} s"
            return ApiError(504, text, code="upstream_timeout")
        text = "the replica failed before it answered; whether it did the request is unknown"
        return ApiError(502, text, code=REPLICA_FAILED)


class AnswerCutError(Exception):
    """A replica failed in the middle of its answer: the client's connection is cut, so that it sees a part missing."""


def none_takes(tried: Sequence[Replica] = ()) -> ApiError:
    """The answer when no replica can be used."""
    text = "no replica takes a connection" if tried else "no replica is healthy"
    return ApiError(503, f"{text}; try again in a few seconds", code=NO_REPLICA)


class _Body:
    """The body of a request, as the client sends it."""

    def __init__(self, receive: Receive, headers: Headers) -> None:
        self._receive = receive
        self._complete = asyncio.Event()
        self._gone = asyncio.Event()
        names = {name.lower(): value for name, value in headers}
        self.chunked = b"chunked" in names.get(b"transfer-encoding", b"").lower()
        self._there = self.chunked or names.get(b"content-length", b"0") != b"0"
        self.begun = False
        """Whether any of it was asked of the client: it cannot be sent twice."""

    async def parts(self) -> AsyncIterator[bytes]:
        if self._there:
            self.begun = True
            while True:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    self._gone.set()
                    await asyncio.Event().wait()  # the exchange is cancelled: the rest of the body will not come
                if part := message.get("body", b""):
                    yield part
                if not message.get("more_body", False):
                    break
        self._complete.set()

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

    def __init__(self, send: Send, *, is_head: bool) -> None:
        self._send = send
        self._is_head = is_head
        self.started = False

    async def send(self, response: httpcore.Response) -> None:
        start: Message = {
            "type": "http.response.start",
            "status": response.status,
            "headers": end_to_end(response.headers),
        }
        self.started = True
        await self._send(start)
        async for part in response.aiter_stream():
            await self._send({"type": "http.response.body", "body": part, "more_body": True})
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _cancelled(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what still runs, and wait for its end."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
