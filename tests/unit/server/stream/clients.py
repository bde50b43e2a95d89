"""A client of ``/v1/stream`` in this process, before a server whose segments are gradients."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from starlette.testclient import TestClient, WebSocketTestSession

from db.session import Database
from pipeline.settings import load_settings
from server.app import create_mock_app
from server.stream import StreamService
from server.stream.config import serve_file_of

INIT = {"type": "session_init_v2"}
SMALL = {"width": 32, "height": 32, "num_frames": 8, "fps": 8, "num_inference_steps": 2}


def prompt(text: str = "a fox", **fields: Any) -> dict[str, Any]:
    return {"type": "segment_prompt_source", "prompt": text, **fields}


@dataclass
class Client:
    """One WebSocket: what came, in its order."""

    socket: WebSocketTestSession
    seen: list[dict[str, Any]] = field(default_factory=list)
    """Messages; a binary one has the type ``binary`` and its ``data``, the close ``close``, ``code`` and ``reason``."""

    def send(self, *messages: dict[str, Any]) -> None:
        for message in messages:
            self.socket.send_json(message)

    def until(self, kind: str) -> dict[str, Any]:
        """The next message of a type. Fails when the connection is closed before."""
        while True:
            message = self._next()
            if message["type"] == kind:
                return message
            assert message["type"] != "close", f"{kind} never came: {self.seen}"

    def end(self) -> dict[str, Any]:
        """The close, after all that came before it."""
        while not self.seen or self.seen[-1]["type"] != "close":
            self._next()
        return self.seen[-1]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.seen if message["type"] == kind]

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.seen]

    def _next(self) -> dict[str, Any]:
        received = self.socket.receive()
        if received["type"] == "websocket.close":
            message = {"type": "close", "code": received["code"], "reason": received.get("reason")}
        elif (text := received.get("text")) is not None:
            message = json.loads(text)
        else:
            message = {"type": "binary", "data": received["bytes"]}
        self.seen.append(message)
        return message


@dataclass
class Server:
    """A mock, and clients of it."""

    service: StreamService
    http: TestClient

    @contextlib.contextmanager
    def client(self, *messages: dict[str, Any], path: str = "/v1/stream") -> Iterator[Client]:
        with self.http.websocket_connect(f"ws://127.0.0.1:8000{path}") as socket:
            client = Client(socket)
            client.send(*messages)
            yield client


@contextlib.contextmanager
def mock(*, step_ms: float = 1, sampling: dict[str, Any] | None = None, **streaming: Any) -> Iterator[Server]:
    """A server of small segments; ``streaming`` are fields of the configuration's block."""
    file = serve_file_of(
        {
            "streaming": {"mock": {"step_ms": step_ms}, **streaming},
            "default_request": {"sampling": SMALL | (sampling or {})},
        }
    )
    database, service = Database("sqlite://"), StreamService.mock(file)
    app = create_mock_app(load_settings(), service, database)
    try:
        with TestClient(app, base_url="http://127.0.0.1:8000") as http:
            yield Server(service, http)
    finally:
        service.close()
        database.close()
