"""Who opens a stream: whose key comes in a header, in a sub-protocol, or in the cookie of the pages."""

from __future__ import annotations

from starlette.websockets import WebSocket

from db.events import acting_key
from server.auth import Caller, require
from server.auth.caller import credential, holder_of, is_own_origin, refusal, without_key
from server.auth.visit import SESSION_COOKIE, session_holder
from server.database import Line
from server.errors import ApiError
from service import keys

PROTOCOL = "vgen.stream"
"""The sub-protocol that is agreed on; a browser, which can set no header, offers its key beside it."""


async def stream_caller(socket: WebSocket, line: Line) -> tuple[Caller, str | None]:
    """Return who calls, and the sub-protocol to agree on.

    Raises:
        ApiError: 401, there is no valid key; 403, it may not open streams, or a page of another site asks.
    """
    acting_key.set(None)
    offered = [name.strip() for name in socket.headers.get("sec-websocket-protocol", "").split(",") if name.strip()]
    agreed = PROTOCOL if PROTOCOL in offered else None
    caller = await _caller(socket, line, offered)
    await require("stream")(caller)
    return caller, agreed


async def _caller(socket: WebSocket, line: Line, offered: list[str]) -> Caller:
    given = credential(socket.headers, socket.url.query)
    text = next((name for name in (given, *offered) if name is not None and name.startswith(keys.PREFIX)), None)
    if text is not None:
        return await holder_of(text, line)
    if (cookie := socket.cookies.get(SESSION_COOKIE)) is not None:
        # The browser sends the cookie for whatever page opens the socket: it must be one of ours.
        origin, host = socket.headers.get("origin"), socket.headers.get("host", "")
        if origin is None or (origin not in line.allowed_origins and not is_own_origin(origin, host)):
            raise ApiError(403, f"pages of {origin} may not use this server with a cookie", code="origin_refused")
        return await session_holder(cookie, line)
    unnamed = await without_key(socket, line)
    if unnamed is None:
        raise refusal("a key is needed: send it as `Authorization: Bearer KEY` or as a sub-protocol beside vgen.stream")
    return unnamed
