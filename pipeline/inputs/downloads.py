"""Downloads a URL for an untrusted submitter, without access to this host's private networks.

Every address is judged in the moment it is connected to, so neither a name that answers differently the next time
(DNS rebinding) nor a redirect leads past the rule. Proxies of the environment are not used: behind one, nobody here
could tell where a request ends.
"""

import hashlib
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import httpcore
import httpx

from pipeline.inputs.addresses import is_public
from pipeline.inputs.media_types import allows
from pipeline.redaction import shown_url

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PORTS = {"http": 80, "https": 443}
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Sequence[str]]
"""Host and port to addresses; raises OSError."""


def resolve_host(host: str, port: int) -> list[str]:
    """The addresses that the system's resolver has for a host."""
    records = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(item[4][0]) for item in records))


class Downloader:
    """Fetches files by HTTP and HTTPS within limits; connections are kept between fetches. Not for several threads.

    Args:
        allowed: networks that may be connected to although they are not public.
        timeout_s: longest time of one fetch, redirects included.
        resolve: names to addresses.
    """

    def __init__(
        self, *, allowed: Iterable[Network] = (), timeout_s: float = 30.0, resolve: Resolve = resolve_host
    ) -> None:
        self._timeout_s = timeout_s
        self._guard = _Guard(tuple(allowed), resolve)
        self._pool: httpcore.ConnectionPool | None = None

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def fetch(self, url: str, to: Path, *, max_bytes: int, media_types: Iterable[str]) -> str:
        """Write the file to ``to``; its sha256 (hex). Nothing is left there on failure.

        ``media_types`` are those that an answer may declare; one that declares none, or
        ``application/octet-stream``, is for the reader to judge.

        Raises:
            ValueError: the message has the URL without its query, and what was wrong.
        """
        masked_url = shown_url(url)
        self._guard.deadline = time.monotonic() + self._timeout_s
        try:
            return self._follow(url, to, max_bytes, frozenset(media_types))
        except _RefusedError as error:
            problem = str(error)
        except httpcore.TimeoutException:
            problem = f"took longer than {self._timeout_s:g} s"
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            problem = f"cannot be fetched: {str(error) or type(error).__name__}"
        except httpx.InvalidURL as error:
            problem = f"is not a valid URL: {error}"
        except OSError as error:
            problem = f"cannot be kept: {error.strerror}"
        to.unlink(missing_ok=True)
        raise ValueError(f"{masked_url!r} {problem}")

    def _follow(self, url: str, to: Path, max_bytes: int, media_types: frozenset[str]) -> str:
        at = httpx.URL(url)
        for _ in range(MAX_REDIRECTS + 1):
            _check(at)
            headers: list[tuple[bytes | str, bytes | str]] = [
                ("Host", at.netloc.decode("ascii")),
                ("Accept-Encoding", "identity"),
                ("User-Agent", "vgen"),
            ]
            target = httpcore.URL(scheme=at.raw_scheme, host=at.raw_host, port=at.port, target=at.raw_path)
            with self._connections().stream("GET", target, headers=headers, extensions=self._timeouts()) as response:
                answer_headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
                if response.status in _REDIRECTS and b"location" in answer_headers:
                    at = at.join(answer_headers[b"location"])
                    continue
                if response.status != 200:
                    raise _RefusedError(f"answered with status {response.status}")
                _check_headers(answer_headers, max_bytes, media_types)
                return _write(response, to, max_bytes)
        raise _RefusedError(f"redirects more than {MAX_REDIRECTS} times")

    def _connections(self) -> httpcore.ConnectionPool:
        if self._pool is None:
            self._pool = httpcore.ConnectionPool(
                ssl_context=httpx.create_ssl_context(), max_connections=1, network_backend=self._guard
            )
        return self._pool

    def _timeouts(self) -> dict[str, Any]:
        return {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), self._timeout_s)}


class _RefusedError(Exception):
    pass


def _check(url: httpx.URL) -> None:
    if url.scheme not in _PORTS:
        raise _RefusedError(f"is {url.scheme or 'no scheme'}:, and only http and https are fetched")
    if not url.host:
        raise _RefusedError("names no host")
    if url.userinfo:
        raise _RefusedError("holds a user name or password, which would be stored; leave it out")


def _check_headers(headers: dict[bytes, str], max_bytes: int, media_types: frozenset[str]) -> None:
    declared = headers.get(b"content-type", "")
    if not allows(declared, media_types):
        bare = declared.partition(";")[0].strip().lower()[:100]
        raise _RefusedError(f"is {bare}, not one of {', '.join(sorted(media_types))}")
    if headers.get(b"content-encoding", "identity").strip().lower() != "identity":
        raise _RefusedError(f"comes in the encoding {headers[b'content-encoding']}, which was not requested")
    length = headers.get(b"content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > max_bytes):
        raise _RefusedError(f"has {length} bytes; at most {max_bytes} are allowed")


def _write(response: httpcore.Response, to: Path, max_bytes: int) -> str:
    digest, size = hashlib.sha256(), 0
    with to.open("wb") as file:
        for chunk in response.iter_stream():
            size += len(chunk)
            if size > max_bytes:
                raise _RefusedError(f"has more than {max_bytes} bytes, the most that are allowed")
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


class _Guard(httpcore.SyncBackend):
    """Opens connections to addresses that are allowed, and to nothing else, until ``deadline``."""

    def __init__(self, allowed: tuple[Network, ...], resolve: Resolve) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self.deadline = 0.0

    def remaining(self) -> float:
        """
        Raises:
            httpcore.TimeoutException: there is no time left.
        """
        remaining_s = self.deadline - time.monotonic()
        if remaining_s <= 0:
            raise httpcore.TimeoutException
        return remaining_s

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = self._addresses(host, port)
        for address in addresses:
            self._judge(host, address)
        problem: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                stream = super().connect_tcp(address, port, self.remaining(), local_address, socket_options)
                return _TimedStream(stream, self.remaining)
            except httpcore.ConnectError as error:
                problem = error
        raise problem

    def _addresses(self, host: str, port: int) -> Sequence[str]:
        """Return what the resolver says, waited for no longer than there is time: it has no deadline of its own."""
        answers: queue.SimpleQueue[Sequence[str] | Exception] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self._resolve(host.strip("[]"), port))
            except Exception as error:  # noqa: BLE001 - raised again by who waits for it
                answers.put(error)

        threading.Thread(target=ask, daemon=True, name="resolve").start()
        try:
            answer = answers.get(timeout=self.remaining())
        except queue.Empty:
            raise httpcore.ConnectTimeout from None
        if isinstance(answer, OSError | UnicodeError):
            raise _RefusedError(f"cannot be fetched: {host} has no address ({answer})")
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _judge(self, host: str, address: str) -> None:
        ip = ipaddress.ip_address(address)
        if not is_public(ip) and not any(ip in network for network in self._allowed):
            raise _RefusedError(
                f"leads to {host} at {address}, an address of a private network; see the setting fetch.networks"
            )


class _TimedStream(httpcore.NetworkStream):
    """A connection that waits no longer than there is time: a server cannot keep us by sending a byte now and then."""

    def __init__(self, stream: httpcore.NetworkStream, remaining: Callable[[], float]) -> None:
        self._stream = stream
        self._remaining = remaining

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._remaining())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._remaining())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, self._remaining()), self._remaining)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
