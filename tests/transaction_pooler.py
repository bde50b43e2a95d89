"""A pooler of PostgreSQL connections in transaction mode, stricter than PgBouncer, for tests.

Each transaction of a client runs on the connection to the server that was used longest ago, and what a session could
have kept there (settings, prepared statements, locks, temporary tables) is discarded before. It speaks PostgreSQL's
protocol 3.0 (docs, "Frontend/Backend Protocol") as far as psycopg does, without COPY and cancels.
"""

from __future__ import annotations

import secrets
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_NO_TLS = {80877103, 80877104}
_ALLOWED = {"user", "database", "application_name", "client_encoding", "DateStyle", "TimeZone"}
"""PgBouncer takes no other, and closes the connection (its option ignore_startup_parameters)."""
_SERVERS = 3


class TransactionPooler:
    """Listens on a free port of 127.0.0.1; ``statements`` holds what all clients sent, ``prepared`` names of theirs."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._idle: deque[_Wire] = deque()
        self._opened = 0
        self._free = threading.Condition()
        self._wires: list[_Wire] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.statements: list[str] = []
        self.prepared: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for wire in self._wires:
            wire.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(_Wire(connection, self._wires),), daemon=True).start()

    def _serve(self, client: _Wire) -> None:
        with suppress(OSError, EOFError, ValueError):  # the last: it was closed by the thread that answers
            parameters = client.read_startup()
            if parameters is None:
                return
            refused = sorted(set(parameters) - _ALLOWED)
            if refused:
                client.send(b"E", f"SFATAL\0C08P01\0Munsupported startup parameter: {refused[0]}\0\0".encode())
                return
            server = self._take(parameters)
            greeting = list(server.greeting)
            self._give_back(server)
            for kind, body in greeting:
                client.send(kind, body)
            client.send(b"K", secrets.token_bytes(8))
            client.send(b"Z", b"I")
            self._relay(client, parameters)
        client.close()

    def _relay(self, client: _Wire, parameters: dict[str, str]) -> None:
        held = _Held()
        try:
            while (message := client.read())[0] != b"X":
                self._note(*message)
                with held.lock:
                    if held.server is None:
                        held.server = self._take(parameters)
                        threading.Thread(target=self._answer, args=(held, held.server, client), daemon=True).start()
                    ends = message[0] in (b"Q", b"S")
                    held.unanswered += ends
                    held.unended = not ends
                    held.server.send(*message)
        finally:
            with held.lock:
                if held.server is not None:  # in the middle of a transaction: nobody else may have it
                    held.server.close()

    def _answer(self, held: _Held, server: _Wire, client: _Wire) -> None:
        """Pass on what the server answers, and give it back when a transaction has ended and nothing is asked."""
        try:
            while True:
                kind, body = server.read()
                with held.lock:
                    held.unanswered -= kind == b"Z"
                    over = kind == b"Z" and body == b"I" and not held.unanswered and not held.unended
                    if over:
                        held.server = None
                        self._give_back(server)
                client.send(kind, body)
                if over:
                    return
        except (OSError, EOFError, ValueError):
            client.close()
            with self._free:
                self._opened -= 1
                self._free.notify()

    def _note(self, kind: bytes, body: bytes) -> None:
        if kind == b"Q":
            self.statements.append(body.rstrip(b"\0").decode())
        elif kind == b"P":
            name, statement, _ = body.split(b"\0", 2)
            self.statements.append(statement.decode())
            self.prepared += [name.decode()] if name else []

    def _take(self, parameters: dict[str, str]) -> _Wire:
        with self._free:
            if not self._free.wait_for(lambda: self._opened < _SERVERS or self._idle, 30):
                raise EOFError
            if self._opened >= _SERVERS:
                server = self._idle.popleft()
                server.send(b"Q", b"DISCARD ALL\0")
                while server.read()[0] != b"Z":
                    pass
                return server
            self._opened += 1
        server = _Wire(socket.create_connection(("127.0.0.1", self._upstream)), self._wires)
        server.log_in(parameters)
        return server

    def _give_back(self, server: _Wire) -> None:
        with self._free:
            self._idle.append(server)
            self._free.notify()


class _Held:
    """What one client has of a server: the connection, and how much of what it asked is open."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.server: _Wire | None = None
        self.unanswered = 0
        self.unended = False
        """Whether it has sent a part of what only the next Sync ends, as in psycopg's pipelines."""


class _Wire:
    """Messages over one connection."""

    def __init__(self, connection: socket.socket, opened: list[_Wire]) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._file = connection.makefile("rb")
        self.greeting: list[tuple[bytes, bytes]] = []
        opened.append(self)

    def log_in(self, parameters: dict[str, str]) -> None:
        pairs = b"".join(f"{name}\0{value}\0".encode() for name, value in parameters.items()) + b"\0"
        self._connection.sendall(struct.pack("!ii", 8 + len(pairs), 196608) + pairs)
        while (message := self.read())[0] != b"Z":
            if message[0] in (b"R", b"S"):
                self.greeting.append(message)

    def read_startup(self) -> dict[str, str] | None:
        """None where a query is to be cancelled."""
        while True:
            length, code = struct.unpack("!ii", self._exactly(8))
            body = self._exactly(length - 8)
            if code not in _NO_TLS:
                break
            self._connection.sendall(b"N")
        words = body.decode().split("\0")
        pairs = zip(words[::2], words[1::2], strict=False)
        return {name: value for name, value in pairs if name} if code == 196608 else None

    def read(self) -> tuple[bytes, bytes]:
        kind = self._exactly(1)
        (length,) = struct.unpack("!i", self._exactly(4))
        return kind, self._exactly(length - 4)

    def send(self, kind: bytes, body: bytes) -> None:
        self._connection.sendall(kind + struct.pack("!i", len(body) + 4) + body)

    def close(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._file.close()
        self._connection.close()

    def _exactly(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise EOFError
        return data


@contextmanager
def transaction_pooler(upstream: int) -> Iterator[TransactionPooler]:
    """A pooler before the PostgreSQL server on this port, at work."""
    pooler = TransactionPooler(upstream)
    try:
        yield pooler
    finally:
        pooler.close()
