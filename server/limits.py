"""Bodies that are too long, or that never come to their end, are refused before anybody parses them."""

import asyncio
import contextlib
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.settings.groups import ServeSettings
from server.errors import ApiError, answer

LINGER_S = 5.0
"""For so long the rest of a refused body is taken and thrown away, while its client reads the answer."""


class BodyLimits:
    """Counts and times the bytes of each request's body."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(self._limit(Headers(scope=scope)), self._settings.receive_s, receive, send)
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared[:18]) > request.limit:
            request.refusal = _too_long(request.limit)
        else:
            try:
                await self._app(scope, request.receive, request.send)
            except Exception:
                if request.refusal is None:
                    raise
        if request.refusal is not None and not request.started:
            await _refuse(request.refusal, receive, send)

    def _limit(self, headers: Headers) -> int:
        form = headers.get("content-type", "").lower().lstrip().startswith("multipart/")
        return self._settings.upload_bytes if form else self._settings.body_bytes


@dataclass
class _Request:
    """One request on its way through; once it is refused, the application is not heard any more."""

    limit: int
    receive_s: float
    inner_receive: Receive
    inner_send: Send
    received: int = 0
    complete: bool = False
    started: bool = False
    refusal: ApiError | None = None

    async def receive(self) -> Message:
        if self.complete:  # what comes now is the end of the connection, for which there is no time limit
            return await self.inner_receive()
        try:
            async with asyncio.timeout(self.receive_s):
                message = await self.inner_receive()
        except TimeoutError:
            text = f"nothing of the request's body came for {self.receive_s:g} s"
            raise self._refused(ApiError(408, text, code="request_timeout")) from None
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
            if self.received > self.limit:
                raise self._refused(_too_long(self.limit))
        return message

    async def send(self, message: Message) -> None:
        if self.refusal is not None and not self.started:
            return
        self.started = True
        await self.inner_send(message)

    def _refused(self, refusal: ApiError) -> ApiError:
        self.refusal = refusal
        return refusal


async def _refuse(refusal: ApiError, receive: Receive, send: Send) -> None:
    """Answer, and only then close: a connection that is closed with bytes unread is reset, and the answer lost."""
    refusal.headers["connection"] = "close"
    response = answer(refusal)
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _too_long(limit: int) -> ApiError:
    return ApiError(413, f"the body is longer than {limit} bytes, the most that is accepted", code="request_too_large")
