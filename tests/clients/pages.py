"""Sites of their own on this machine: a folder's files, and FastVideo's playground before a server of vgen."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx


class _Files(SimpleHTTPRequestHandler):
    """A folder's files, without a log."""

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def _serving(handler: Any) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def serving_files(folder: Path) -> Iterator[str]:
    """Serve a folder's files; the site's origin."""
    with _serving(partial(_Files, directory=str(folder))) as origin:
        yield origin


@dataclass(frozen=True)
class PlaygroundFiles:
    """FastVideo's playground, from a checkout, on one origin with the server that it asks."""

    static: Path
    server: str
    model: str

    @contextmanager
    def serving(self) -> Iterator[str]:
        with httpx.Client(base_url=self.server, timeout=60) as client:
            handler = type("Playground", (_Playground,), {"files": self, "client": client})
            with _serving(handler) as origin:
                yield origin


class _Playground(_Files):
    """What FastVideo's server would answer: the page, its settings, and everything else from vgen."""

    files: PlaygroundFiles
    client: httpx.Client

    def do_GET(self) -> None:
        name = urlsplit(self.path).path.removeprefix("/playground").strip("/")
        if not self.path.startswith("/playground"):
            self._forward()
        elif name == "config":
            body = json.dumps({"model": self.files.model, "defaults": {}}).encode()
            self._answer(200, {"content-type": "application/json"}, body)
        else:
            path = self.files.static / (name or "playground.html")
            self._answer(200, {"content-type": self.guess_type(str(path))}, path.read_bytes())

    def do_POST(self) -> None:
        self._forward()

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        answer = self.client.request(self.command, self.path, content=body, headers=headers)
        self._answer(answer.status_code, answer.headers, answer.content)

    def _answer(self, status: int, headers: Any, body: bytes) -> None:
        self.send_response(status)
        for name in ("content-type", "content-range", "accept-ranges"):
            if name in headers:
                self.send_header(name, headers[name])
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
