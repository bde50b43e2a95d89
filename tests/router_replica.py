"""A small server behind the router, as a process of its own: it echoes, and does on request what goes wrong.

``python -m tests.router_replica NAME`` prints its address. WebSockets: the first message says which replica it is and
what it was sent; then a text ``close CODE REASON``, ``burst COUNT BYTES``, ``sleep SECONDS`` or ``die`` is obeyed, and
everything else is sent back.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import uvicorn

from server.listener import listen, shown_address

REPOSITORY = Path(__file__).parent.parent


FIXED: dict[str, tuple[Any, ...]] = {
    "/status/418": (418, {"short": "stout"}, (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")),
    "/moved": (302, {}, (b"location", b"http://198.51.100.1/elsewhere")),
    "/early": (413, {"early": True}, (b"connection", b"close")),  # before the body has come
    "/large": (200, "x" * 64 * 1024 * 1024),
}
"""Answers that depend on the path alone: status, value, headers."""


class Replica:
    def __init__(self, name: str) -> None:
        self.name = name
        self.health: dict[str, Any] = {"status": 200, "delay": 0.0}
        self.endings: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            await self._request(scope, receive, send)

    async def _socket(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if status := re.fullmatch(r"/refuse/(\d+)", scope["path"]):
            headers = [(b"x-why", b"asked"), (b"location", b"ws://198.51.100.1/"), (b"content-type", b"text/plain")]
            await send({"type": "websocket.http.response.start", "status": int(status[1]), "headers": headers})
            await send({"type": "websocket.http.response.body", "body": b"refused"})
            return
        if scope["path"] == "/hang":
            await asyncio.Event().wait()
        chosen = scope["subprotocols"][-1] if scope["subprotocols"] else None
        await send({"type": "websocket.accept", "subprotocol": chosen, "headers": [(b"x-replica", self.name.encode())]})
        await send(
            {"type": "websocket.send", "text": json.dumps({**self._seen(scope), "offered": scope["subprotocols"]})}
        )
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self.endings.append([message.get("code"), message.get("reason")])
                return
            text = message.get("text")
            match (text or "").split(" ", 2):
                case ["close", code, *reason]:
                    await send({"type": "websocket.close", "code": int(code), "reason": " ".join(reason)})
                    return
                case ["burst", count, size]:
                    for number in range(int(count)):
                        body = number.to_bytes(4, "big") + bytes(int(size) - 4)
                        await send({"type": "websocket.send", "bytes": body})
                        self.endings[:] = [number + 1]
                case ["sleep", seconds]:
                    await asyncio.sleep(float(seconds))
                case ["die"]:
                    os._exit(9)
                case _ if text is not None:
                    await send({"type": "websocket.send", "text": text})
                case _:
                    await send({"type": "websocket.send", "bytes": message["bytes"]})

    async def _request(self, scope: Any, receive: Any, send: Any) -> None:
        query = {key: values[0] for key, values in parse_qs(scope["query_string"].decode()).items()}
        match scope["path"]:
            case "/health":
                await asyncio.sleep(self.health["delay"])
                await _answer(send, self.health["status"], {"status": "ok"})
            case "/control":
                self.health.update(json.loads(await _body(receive)))
                await _answer(send, 200, self.health)
            case "/endings":
                await _answer(send, 200, self.endings)
            case path if path in FIXED:
                status, value, *headers = FIXED[path]
                await _answer(send, status, value, *headers)
            case "/ranged":
                wanted = dict(scope["headers"]).get(b"range", b"").decode()
                first, last = map(int, wanted.removeprefix("bytes=").split("-"))
                await _answer(
                    send, 206, "y" * (last - first - 1), (b"content-range", f"bytes {first}-{last}/*".encode())
                )
            case "/never":
                while (await receive())["type"] != "http.disconnect":
                    pass
                self.endings.append("left")
            case "/parts":
                await send(
                    {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
                )
                for number in range(int(query["count"])):
                    await send({"type": "http.response.body", "body": f"{number}\n".encode(), "more_body": True})
                    await asyncio.sleep(float(query.get("pause", 0)))
                    if query.get("die") == str(number):
                        os._exit(9)
                await send({"type": "http.response.body", "body": b""})
            case _:
                body = await _body(receive)
                digest = {"length": len(body), "sha256": hashlib.sha256(body).hexdigest()}
                await _answer(send, 200, {**self._seen(scope), "method": scope["method"], **digest})

    def _seen(self, scope: Any) -> dict[str, Any]:
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers[name.decode()] = ", ".join(filter(None, (headers.get(name.decode()), value.decode("latin-1"))))
        return {
            "replica": self.name,
            "raw_path": scope["raw_path"].decode(),
            "query": scope["query_string"].decode(),
            "headers": headers,
        }


async def _body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _answer(send: Any, status: int, value: Any, *headers: tuple[bytes, bytes]) -> None:
    body = json.dumps(value).encode()
    sent = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": body})


@dataclass(frozen=True)
class StartedReplica:
    name: str
    url: str
    process: subprocess.Popen[str]

    def control(self, **health: Any) -> None:
        httpx.post(f"{self.url}/control", json=health).raise_for_status()

    def endings(self) -> list[Any]:
        """How the sessions ended that this replica had: code and reason each."""
        endings: list[Any] = httpx.get(f"{self.url}/endings").json()
        return endings

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def started_replica(name: str, port: int = 0, host: str = "127.0.0.1") -> Iterator[StartedReplica]:
    command = [sys.executable, "-m", "tests.router_replica", name, str(port), host]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    try:
        assert process.stdout is not None
        yield StartedReplica(name, process.stdout.readline().strip(), process)
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    name, port, host = sys.argv[1:]
    listener = listen(host, int(port))
    sys.stdout.write(f"http://{shown_address(listener)}\n")
    sys.stdout.flush()
    options = uvicorn.Config(
        Replica(name), log_config=None, access_log=False, lifespan="off", ws_max_size=256 * 1024 * 1024
    )
    uvicorn.Server(options).run(sockets=[listener])


if __name__ == "__main__":
    main()
