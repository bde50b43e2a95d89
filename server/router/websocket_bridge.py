"""WebSockets through the router: each message, and how each side closes, is passed to the other.

The bridge keeps no message: it reads the next one from a side when the other has taken the last. Who reads slowly slows
its sender down, and nobody else.
"""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.frames import Close
from websockets.http11 import Response
from websockets.typing import Subprotocol

from server.router.addresses import origin_of, target_of
from server.router.connections import cut
from server.router.current import Current
from server.router.headers import LOOP_STATUS, Headers, came_through, end_to_end, forwarded, with_host, with_via
from server.router.health_checks import HealthChecks
from server.router.metrics import NO_REPLICA, RouterMetrics
from server.router.registry import Load, Replica, ReplicaRegistry

logger = logging.getLogger(__name__)
NORMAL, GOING_AWAY, TOO_BIG, FAILED, RESTARTING, TRY_LATER = 1000, 1001, 1009, 1011, 1012, 1013
PING_S = 20.0
_CLOSE_S = 2.0
"""A side has so long to answer that it is closed; then its connection is cut."""
_MAX_REASON_BYTES = 123
_KEY = "vgen_sk_"
"""What keys begin with: a subprotocol that holds one is never sent back."""
_OF_THE_HANDSHAKE = (b"host", b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions")
_OF_AN_ACCEPTANCE = (
    *(b"sec-websocket-accept", b"sec-websocket-protocol", b"sec-websocket-extensions"),
    *(b"date", b"server", b"content-length"),
)
_NEXT_REPLICA = frozenset({502, 503, 504, LOOP_STATUS})
"""A replica that refuses a handshake so, as one that stops does, is passed over for another."""
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
"""What a ``Host`` header may be: it is sent on as the host of a URL."""


class _Connect(connect):
    """A connection to the very address that is given: no redirect is followed."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a session ended."""

    name: str
    """The metrics' word for it."""
    to_client: Close | None = None
    """What the client is told; None: it is gone."""
    to_replica: Close | None = None
    """What the replica is told; None: it is gone, or its connection is cut as the client's was."""
    error: str | None = None
    """A message for the client that comes before its close."""
    stalled: bool = False


@dataclass(frozen=True, slots=True)
class _Opened:
    """A connection to a replica that it has accepted."""

    replica: Replica
    connection: ClientConnection


@dataclass(frozen=True, slots=True)
class _Refused:
    """A replica's answer that is not the opening of a WebSocket."""

    status: int
    headers: Headers
    body: bytes


class WebSocketBridge:
    """Connects each client to a replica, for as long as both want."""

    def __init__(
        self, current: Current, registry: ReplicaRegistry, checks: HealthChecks, metrics: RouterMetrics
    ) -> None:
        self._current = current
        self._registry = registry
        self._checks = checks
        self._metrics = metrics
        self.stopping = asyncio.Event()
        """Set when sessions that still run are ended, so that the router can stop."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = Client(scope, receive, send)
        target = target_of(scope)
        await receive()
        if target is None:
            await client.refuse(_Refused(400, [], b"the request's target must be a path that begins with /"))
            return
        if came_through(scope["headers"], self._current.identity):
            await client.refuse(_Refused(LOOP_STATUS, [], b"a replica's address leads to this router"))
            return
        tried: list[Replica] = []
        refused: _Refused | None = None
        while (replica := self._registry.select(Load.SESSION, tried)) is not None:
            tried.append(replica)
            with self._registry.carrying(replica, Load.SESSION):
                opened = await self._open(replica, scope, target)
                if isinstance(opened, _Opened):
                    await self._session(client, opened)
                    return
            refused = opened or refused
            if opened is not None and opened.status not in _NEXT_REPLICA:
                break
        if refused is not None:
            self._metrics.sessions[tried[-1].name, "refused"] += 1
            await client.refuse(refused)
        else:
            message = f"{self._registry.why_none(tried)}; try again in a few seconds"
            await self.turn_away(client, message, "no_healthy_replica")

    async def turn_away(self, client: "Client", message: str, reason: str) -> None:
        """Tell a client that comes now to come again later."""
        self._metrics.sessions[NO_REPLICA, reason] += 1
        with contextlib.suppress(ClientGoneError):
            await client.accept(client.own_subprotocol(), [])
            await client.end(Close(TRY_LATER, reason), error_message("gpu_unavailable", message))

    async def _open(self, replica: Replica, scope: Scope, target: bytes) -> _Opened | _Refused | None:
        """Connect to a replica; None: it takes no connection, and another can be tried."""
        scheme, host, port = origin_of(replica.url)
        secure = scheme == "https"
        config = self._current.config
        headers = with_host(forwarded(end_to_end(scope["headers"]), scope, config.trusted_proxies), replica.url)
        headers = with_via(headers, self._current.identity)
        asked = dict(headers)[b"host"].decode("latin-1")
        if not _AUTHORITY.fullmatch(asked):
            return _Refused(400, [], b"the handshake's Host header must be HOST or HOST:PORT")
        dropped = (*_OF_THE_HANDSHAKE, b"sec-websocket-protocol")
        tls: dict[str, Any] = {"server_hostname": host} if secure else {}
        try:
            connection = await _Connect(
                f"{'wss' if secure else 'ws'}://{asked}{target.decode('ascii')}",
                host=host,
                port=port,
                **tls,
                proxy=None,
                compression=None,
                subprotocols=[Subprotocol(each) for each in scope["subprotocols"]] or None,
                additional_headers=[
                    (key.decode("latin-1"), value.decode("latin-1")) for key, value in headers if key not in dropped
                ],
                user_agent_header=None,
                open_timeout=config.connect_timeout_seconds,
                ping_interval=PING_S,
                ping_timeout=config.stall_timeout_seconds,
                close_timeout=_CLOSE_S,
                max_size=config.max_message_bytes,
                max_queue=4,
                logger=logger,
            )
        except InvalidStatus as error:
            answer = error.response
            return _Refused(answer.status_code, _headers_of(answer, (b"content-length",)), bytes(answer.body or b""))
        except (InvalidURI, ValueError):
            return _Refused(400, [], b"the handshake's host, path or subprotocols cannot be read")
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
            of = (replica.name, replica.url, type(error).__name__, error)
            logger.warning("replica %s (%s) opens no session: %s: %s", *of)
            self._metrics.connect_failures[(replica.name,)] += 1
            self._checks.suspect(replica)
            return None
        return _Opened(replica, connection)

    async def _session(self, client: "Client", opened: _Opened) -> None:
        connection, replica = opened.connection, opened.replica
        try:
            with contextlib.suppress(ClientGoneError):
                await client.accept(connection.subprotocol, _headers_of(connection.response, _OF_AN_ACCEPTANCE))
            ending = await self._run(client, connection, replica)
            self._metrics.sessions[replica.name, ending.name] += 1
            if ending.stalled:
                await client.abort()
            elif ending.to_client is not None:
                await client.end(ending.to_client, ending.error)
            if ending.to_replica is not None:
                await connection.close(ending.to_replica.code, ending.to_replica.reason)
        finally:
            connection.transport.abort()

    async def _run(self, client: "Client", connection: ClientConnection, replica: Replica) -> _Ending:
        """Pass messages both ways until one side, or the router, ends the session."""
        tasks = [
            asyncio.create_task(self._to_replica(client, connection)),
            asyncio.create_task(self._to_client(client, connection, replica)),
            asyncio.create_task(self._until_stopping()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(task for task in tasks if task in done).result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _to_replica(self, client: "Client", connection: ClientConnection) -> _Ending:
        while True:
            message = await client.receive()
            if message["type"] == "websocket.disconnect":
                code = message.get("code", 1005)
                told = Close(code, message.get("reason") or "") if _can_be_sent(code) else None
                return _Ending("client_closed", to_replica=told)
            text = message.get("text")
            try:
                await connection.send(message["bytes"] if text is None else text)
            except ConnectionClosed:  # the other direction still has what the replica said before it closed
                await asyncio.Event().wait()

    async def _to_client(self, client: "Client", connection: ClientConnection, replica: Replica) -> _Ending:
        while True:
            try:
                message = await connection.recv()
            except ConnectionClosed as closed:
                return self._closed(closed, replica)
            try:
                async with asyncio.timeout(self._current.config.stall_timeout_seconds):
                    await client.send(message)
            except TimeoutError:
                logger.warning("a client of replica %s takes nothing any more", replica.name)
                told = Close(GOING_AWAY, "the client takes nothing any more")
                return _Ending("client_stalled", to_replica=told, stalled=True)
            except ClientGoneError:  # with which code the other direction reads, unless its replica reads nothing
                await asyncio.sleep(_CLOSE_S)
                return _Ending("client_closed")

    def _closed(self, closed: ConnectionClosed, replica: Replica) -> _Ending:
        """How a session ends whose replica closed, or is gone."""
        if closed.rcvd is not None and closed.rcvd_then_sent is not False:
            code = closed.rcvd.code if _can_be_sent(closed.rcvd.code) else NORMAL
            return _Ending("replica_closed", to_client=Close(code, closed.rcvd.reason))
        if closed.sent is not None and closed.sent.code == TOO_BIG:
            text = f"the replica sent a message of more than {self._current.config.max_message_bytes} bytes"
            told = Close(TOO_BIG, "message_too_big")
            return _Ending("message_too_big", to_client=told, error=error_message("worker_failed", text))
        logger.warning("replica %s (%s) is lost in a session: %s", replica.name, replica.url, closed)
        self._checks.suspect(replica)
        text = (
            "the replica of this session is gone: connect again, with the last continuation_state to go on from there"
        )
        told = Close(FAILED, "replica_lost")
        return _Ending("replica_lost", to_client=told, error=error_message("worker_failed", text))

    async def _until_stopping(self) -> _Ending:
        await self.stopping.wait()
        text = "the router stops: connect again, with the last continuation_state to go on"
        return _Ending(
            "router_stops",
            to_client=Close(RESTARTING, "router_stops"),
            to_replica=Close(GOING_AWAY, "router_stops"),
            error=error_message("gpu_unavailable", text),
        )


class ClientGoneError(Exception):
    """The client has closed its connection."""


class Client:
    """The client's side of a session, as ASGI has it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self.receive = receive
        self._send = send

    def own_subprotocol(self) -> str | None:
        """The subprotocol of an answer that no replica gave: browsers want one of those that they offer, if any."""
        return next((each for each in self._scope["subprotocols"] if _KEY not in each), None)

    async def accept(self, subprotocol: str | None, headers: Headers) -> None:
        with _client_gone():
            await self._send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers})

    async def send(self, message: str | bytes) -> None:
        """Raises ClientGoneError."""
        kind = "text" if isinstance(message, str) else "bytes"
        with _client_gone():
            await self._send({"type": "websocket.send", kind: message})

    async def end(self, close: Close, error: str | None = None) -> None:
        """Send the last message, if there is one, and close; a client that does not take it is cut off."""
        reason = close.reason.encode()[:_MAX_REASON_BYTES].decode("utf-8", "ignore")
        try:
            async with asyncio.timeout(_CLOSE_S):
                if error is not None:
                    await self.send(error)
                with _client_gone():
                    await self._send({"type": "websocket.close", "code": close.code, "reason": reason})
        except TimeoutError:
            await self.abort()
        except ClientGoneError:
            return

    async def refuse(self, answer: _Refused) -> None:
        """Answer the handshake as the replica did."""
        with contextlib.suppress(ClientGoneError), _client_gone():
            start = {"type": "websocket.http.response.start", "status": answer.status, "headers": answer.headers}
            await self._send(start)
            await self._send({"type": "websocket.http.response.body", "body": answer.body, "more_body": False})

    async def abort(self) -> None:
        await cut(self._scope)


@contextlib.contextmanager
def _client_gone() -> Iterator[None]:
    """Translate what uvicorn raises when the other end is gone, or was closed for breaking the protocol."""
    try:
        yield
    except (OSError, RuntimeError):
        raise ClientGoneError from None


def error_message(code: str, message: str) -> str:
    """An ``error`` of the stream's protocols: ``/v1/stream`` reads ``code``, ``/ws`` reads ``error_code``."""
    fields: dict[str, Any] = {"type": "error", "code": code, "error_code": code, "message": message, "retryable": True}
    return json.dumps(fields)


def _headers_of(answer: Response | None, without: Sequence[bytes]) -> Headers:
    """The headers of a replica's answer to the handshake that its client gets."""
    if answer is None:
        return []
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.raw_items()]
    return end_to_end(pairs, without)


def _can_be_sent(code: int) -> bool:
    """Return whether a close frame may have this code (RFC 6455, section 7.4, and the registry it leads to)."""
    return code in (1000, 1001, 1002, 1003) or 1007 <= code <= 1014 or 3000 <= code <= 4999
