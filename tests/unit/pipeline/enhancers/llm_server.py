"""A real HTTP server on 127.0.0.1 that speaks chat completions, well or badly, as a test tells it to."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pipeline.enhancers.openai_compatible import OpenAICompatibleProvider

KEY = "sk-test-0123456789-secret"
KEY_VARIABLE = "VGEN_ENHANCE_KEY_LOCAL"


class LLMServer(ThreadingHTTPServer):
    """Answers every POST by calling ``answer(handler)``; ``requests`` holds what it was asked, headers included."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict[str, Any]] = []
        self.answer: Callable[[_Handler], None] = says("a better prompt")
        self.released = threading.Event()
        """Set at the end, so that an answer that waits does not outlive its test."""

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: LLMServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(
            {"path": self.path, "headers": {name.lower(): value for name, value in self.headers.items()}, "body": body}
        )
        try:
            self.server.answer(self)
        except (BrokenPipeError, ConnectionResetError):  # the client gave up, as some tests want
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
        pass

    def send(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


Answer = Callable[[_Handler], None]


def says(content: object) -> Answer:
    return answers(200, {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]})


def answers(status: int, body: object) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda handler: handler.send(status, data)


def waits(handler: _Handler) -> None:
    handler.server.released.wait(30)


def drips(handler: _Handler) -> None:
    """Starts to answer and sends a byte now and then: no single read times out."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while not handler.server.released.wait(0.05):
        handler.wfile.write(b" ")


def breaks_off(handler: _Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def hangs_up(handler: _Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


@contextmanager
def llm_server() -> Iterator[LLMServer]:
    server = LLMServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def provider_at(base_url: str, name: str = "local", *, key_required: bool = True) -> Iterator[OpenAICompatibleProvider]:
    provider = OpenAICompatibleProvider(name, base_url, key_variable=KEY_VARIABLE, key_required=key_required)
    try:
        yield provider
    finally:
        provider.close()


def closed_port_url() -> str:
    """A URL where nothing listens: the port was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


@pytest.fixture
def server() -> Iterator[LLMServer]:
    with llm_server() as started:
        yield started
