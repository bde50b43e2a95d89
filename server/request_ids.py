"""The outermost layer: each answer has an id, and no error leaves a client without an answer."""

import logging
import secrets

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import internal_error

logger = logging.getLogger(__name__)


class RequestIds:
    """Names each request in ``x-request-id`` and in ``scope["state"]``; an unexpected error is logged once, with it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except Exception:
            if started:  # the connection is cut, so that nobody takes half an answer for a whole one
                raise
            logger.exception("request failed", extra={"request_id": request_id, "path": scope["path"]})
            await internal_error()(scope, receive, send_named)
