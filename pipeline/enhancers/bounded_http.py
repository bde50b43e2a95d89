"""An HTTP client for servers that are not trusted: one deadline, a limit of bytes, no redirects to other servers.

A library's timeout bounds one read, so a server that sends a byte now and then would hold its caller for ever, in the
headers as in the body. Here the connection itself knows until when it may be read, and how much of it.
"""

import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any

import httpcore2
import httpx2

MAX_ANSWER_BYTES = 1024 * 1024
"""The limit of headers and body together, and of the decompressed body. An answer has some kilobytes."""
MAX_REDIRECTS = 3
_WRITE_BYTES = 16 * 1024
_ENDED_EARLY = "the compressed answer is cut or damaged"


class AnswerError(Exception):
    """The server's answer breaks one of the limits here; the message says which."""


@dataclass(slots=True)
class _Limits:
    """The limits that one request has left: a deadline by ``time.monotonic()``, and a number of bytes."""

    deadline: float
    timeout_s: float
    bytes_left: int = MAX_ANSWER_BYTES

    def seconds_left(self) -> float:
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise self.late()
        return seconds

    def late(self) -> AnswerError:
        begun = self.bytes_left < MAX_ANSWER_BYTES
        return AnswerError(f"no {'complete ' if begun else ''}answer within {self.timeout_s:g} s")

    def take(self, byte_count: int) -> None:
        self.bytes_left -= byte_count
        if self.bytes_left < 0:
            raise AnswerError(f"answer is longer than {MAX_ANSWER_BYTES} bytes")


_limits: ContextVar[_Limits] = ContextVar("_limits")
"""The limits of this thread's request: a synchronous client reads and writes in its caller's thread."""


@contextmanager
def limited(timeout_s: float) -> Iterator[None]:
    """All requests of a ``BoundedClient`` within the context take ``timeout_s`` seconds together, at most."""
    token = _limits.set(_Limits(time.monotonic() + timeout_s, timeout_s))
    try:
        yield
    finally:
        _limits.reset(token)


class BoundedClient(httpx2.Client):
    """Sends within ``limited`` alone, and hands out answers that are read whole.

    Redirects are followed only where they keep method and origin (307 and 308 on the same scheme, host and port, or
    from http to https on the same host): a key and a prompt go to no other server than the one that was named.
    """

    def __init__(self) -> None:
        super().__init__(headers={"Accept-Encoding": "identity"})
        # httpx offers no way to hand its transports a network backend, with proxies of the environment least of all.
        for transport in (self._transport, *self._mounts.values()):
            if isinstance(transport, httpx2.HTTPTransport):
                transport._pool._network_backend = _BoundedBackend()

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """The answer, its body read.

        Raises:
            AnswerError: too long, too slow, damaged, or a redirect to elsewhere.
            httpx2.HTTPError: no connection, no HTTP.
        """
        options |= {"stream": True, "follow_redirects": False}
        for _ in range(MAX_REDIRECTS + 1):
            answer = super().send(request, **options)
            try:
                body = _read(answer)
            finally:
                answer.close()
            headers = [(name, value) for name, value in answer.headers.multi_items() if name.lower() not in _FRAMING]
            read_answer = httpx2.Response(answer.status_code, headers=headers, content=body, request=request)
            if answer.next_request is None:
                return read_answer
            request = _same_server(request, answer.next_request)
        raise AnswerError(f"more than {MAX_REDIRECTS} redirects")


_FRAMING = frozenset({"content-encoding", "content-length", "transfer-encoding"})
"""Headers that describe the body as it came, not as it was read."""


def _read(answer: httpx2.Response) -> bytes:
    """The body, decompressed where a server compresses though it was asked not to."""
    raw = b"".join(answer.iter_raw())  # the connection counts them
    encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        return raw
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise AnswerError("answer is compressed, although an uncompressed one was requested")
    decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        body = decompressor.decompress(raw, MAX_ANSWER_BYTES + 1)
    except zlib.error:
        raise AnswerError(_ENDED_EARLY) from None
    if len(body) > MAX_ANSWER_BYTES:
        raise AnswerError(f"answer is longer than {MAX_ANSWER_BYTES} bytes")
    if not decompressor.eof:
        raise AnswerError(_ENDED_EARLY)
    return body


def _same_server(request: httpx2.Request, redirected: httpx2.Request) -> httpx2.Request:
    before, after = request.url, redirected.url
    same_origin = (before.scheme, before.host, _port(before)) == (after.scheme, after.host, _port(after))
    upgrade = (before.scheme, after.scheme, before.host, _port(before), _port(after)) == (
        "http", "https", after.host, 80, 443
    )  # fmt: skip
    if not (same_origin or upgrade) or redirected.method != request.method:
        where = f"{after.scheme}://{after.host}{f':{after.port}' if after.port else ''}"
        raise AnswerError(f"redirects to {where[:200]}, which is not followed: name that server's base URL instead")
    return redirected


def _port(url: httpx2.URL) -> int | None:
    return url.port or {"http": 80, "https": 443}.get(url.scheme)


class _BoundedBackend(httpcore2.SyncBackend):
    """Connections that read and write within the limits of the request they serve."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        stream = super().connect_tcp(host, port, _shorter(timeout), local_address, socket_options)
        return _BoundedStream(stream)


class _BoundedStream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            block = self._stream.read(max_bytes, _shorter(timeout))
        except httpcore2.ReadTimeout:
            raise _limits.get().late() from None
        _limits.get().take(len(block))
        return block

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for block in _blocks(memoryview(buffer)):
            self._stream.write(block, _shorter(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        # The timeout of a handshake is one for all its reads.
        return _BoundedStream(self._stream.start_tls(ssl_context, server_hostname, _shorter(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _shorter(timeout: float | None) -> float:
    seconds = _limits.get().seconds_left()
    return seconds if timeout is None else min(timeout, seconds)


def _blocks(view: memoryview) -> Iterable[bytes]:
    return (bytes(view[start : start + _WRITE_BYTES]) for start in range(0, len(view), _WRITE_BYTES))
