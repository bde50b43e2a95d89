"""Measures the HTTP server: ``python -m bench.serve [--requests 300] [--clips 2000]``.

A server of its own over PostgreSQL, which only serves; nothing works the line off. Beside it, in the same form, the
least that a server can do: a bare FastAPI route that inserts one row. Each call is made one after the other, then by
eight clients at once; the client runs on the same machine.
"""

import argparse
import asyncio
import itertools
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import update

from db import schema
from db.models import ArtifactRow
from db.session import Database
from pipeline.digests import sha256_hex
from pipeline.files.object_names import media_key
from pipeline.settings import Settings, load_settings
from pipeline.wiring import make_storage
from tests import servers
from tests.unit.db.line import Line

CLIENTS = 8
BODY = {"prompt": "a red fox in the snow", "model": "idle", "size": "32x32", "seed": 7}
CLIP = os.urandom(200_000)


def bare(url: str) -> None:
    """Serve one route that inserts one row, on the server's own libraries, and print the address."""
    import socket  # noqa: PLC0415 - this process is the other side of the bench
    from typing import cast  # noqa: PLC0415

    import uvicorn  # noqa: PLC0415
    from fastapi import FastAPI  # noqa: PLC0415
    from pydantic import BaseModel  # noqa: PLC0415
    from sqlalchemy import create_engine, text  # noqa: PLC0415

    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS bare (id bigserial PRIMARY KEY, prompt text)"))
    app = FastAPI()

    class Item(BaseModel):
        prompt: str

    def insert(item: Item) -> dict[str, int]:
        with engine.begin() as connection:
            row = connection.execute(text("INSERT INTO bare (prompt) VALUES (:p) RETURNING id"), {"p": item.prompt})
            return {"id": cast(int, row.scalar_one())}

    insert.__annotations__["item"] = Item
    app.post("/items")(insert)
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"serving on http://127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
    uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")).run(sockets=[listener])


@contextmanager
def started(command: Sequence[str], env: dict[str, str]) -> Iterator[tuple[str, int]]:
    """A server's address and its process's id, while it runs."""
    process = subprocess.Popen(command, env={**os.environ, **env}, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if address := re.search(r"http://\S+", line):
                yield address[0], process.pid
                return
        raise AssertionError("the server did not start")
    finally:
        process.kill()
        process.communicate()


def fill(database: Database, settings: Settings, clips: int) -> str:
    """A batch of so many jobs that wait, and one finished clip; the clip's id as a video."""
    line = Line(database)
    line.worker()
    job_id = f"{line.submit(count=1)}-000000"
    line.finish_job(job_id)
    digest = sha256_hex(CLIP)
    key = media_key(job_id, digest, "mp4")
    make_storage(settings).put_bytes(key, CLIP, content_type="video/mp4")
    line.submit(count=clips)
    with database.transaction() as session:
        session.execute(update(ArtifactRow).values(key=key, sha256=digest, size=len(CLIP)))
    return f"video_{job_id}"


async def measured(served: tuple[str, int], requests: int, *calls: tuple[str, str, Any]) -> None:
    url, pid = served
    for method, path, body in calls:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:

            async def call(client: httpx.AsyncClient = client) -> float:
                begun = time.perf_counter()
                answer = await client.request(method, path, json=body)  # noqa: B023 - awaited before the next
                answer.raise_for_status()
                return (time.perf_counter() - begun) * 1000

            for _ in range(20):
                await call()
            before = _cpu_ms(pid)
            alone = sorted([await call() for _ in range(requests)])
            cpu_ms = (_cpu_ms(pid) - before) / requests
            begun = time.perf_counter()
            times = await asyncio.gather(*(_several(call, requests // CLIENTS) for _ in range(CLIENTS)))
            busy = sorted(itertools.chain.from_iterable(times))
            rate = len(busy) / (time.perf_counter() - begun)
            shown = re.sub(r"video_[0-9a-z]+-[0-9]+", "ID", path)
            print(
                f"{method:4} {shown:28} alone: p50 {statistics.median(alone):6.2f} ms, p99 {_p99(alone):6.2f} ms, "
                f"CPU of the server {cpu_ms:5.2f} ms; "
                f"{CLIENTS} clients: {rate:5.0f}/s, p50 {statistics.median(busy):6.2f} ms, p99 {_p99(busy):6.2f} ms"
            )


def _cpu_ms(pid: int) -> float:
    """What a process has used of the CPU: the same however busy the machine is."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


async def _several(call: Any, count: int) -> list[float]:
    return [await call() for _ in range(count)]


def _p99(times: list[float]) -> float:
    return times[min(len(times) - 1, int(len(times) * 0.99))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--clips", type=int, default=2000, help="jobs that wait in the database")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.bare:
        bare(chosen.bare)
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with (
        tempfile.TemporaryDirectory(prefix="vgen-bench-") as folder,
        servers.postgres_server() as server,
        servers.fresh_database(server) as url,
    ):
        env = {
            "VGEN_HOME": folder,
            "VGEN_DATABASE_URL": url,
            "VGEN_BROKER_URL": "redis://127.0.0.1:1/0",
            "VGEN_STORAGE": f"{folder}/clips",
            "VGEN_PRESET": "idle",
        }
        settings = load_settings(home=Path(folder), database_url=url, storage=f"{folder}/clips", preset="idle")
        database = Database(url)
        schema.upgrade(database)
        clip = fill(database, settings, chosen.clips)
        database.close()
        with started([sys.executable, "-m", "bench.serve", "--bare", url], {}) as served:
            asyncio.run(measured(served, chosen.requests, ("POST", "/items", {"prompt": "a fox"})))
        with started([sys.executable, "-m", "cli.main", "serve", "--port", "0"], env) as served:
            with httpx.Client(base_url=served[0]) as client:
                waiting = client.post("/v1/videos", json=BODY).json()["id"]
            calls = (
                ("POST", "/v1/videos", BODY),
                ("GET", f"/v1/videos/{clip}", None),
                ("GET", f"/v1/videos/{waiting}", None),
                ("GET", "/v1/videos", None),
                ("GET", f"/v1/videos/{clip}/content", None),
            )
            asyncio.run(measured(served, chosen.requests, *calls))


if __name__ == "__main__":
    main()
