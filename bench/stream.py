"""Compares a streaming session with a bare loop: ``python -m bench.stream [--segments 12] [--mock [--sessions 20]]``.

    python -m bench.stream --sessions 20 --mock
    python -m bench.stream --sessions 2 --workers 2

The same segments are made twice over a WebSocket on this machine: by `vgen serve` (a solo line with the idle generator,
or with ``--mock`` without a line), and by a loop that sleeps for the steps, writes the frames into the same FFmpeg
command, and sends what comes out. Of each: the time from a prompt to its first fragment, where nothing else waits, and
the gap from a segment's last fragment to the first one of the next, whose prompt was there; both less the time of the
steps themselves. With ``--sessions`` so many sessions run at once instead, of a mock, or of a cluster with so many GPU
workers (``--workers``; PostgreSQL, Redis and an S3 store are started for it): how long each took for its segments.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

from pipeline.encoding.live import FragmentedMp4Encoder, Track
from tests.cluster import running_cluster
from tests.serving import serving

STEPS = 4
FPS, FRAMES = 24, 48
SIZES = {"small": (256, 256), "large": (832, 480)}
CONFIG = """
default_request:
  sampling: {{ width: {width}, height: {height}, num_frames: {frames}, fps: {fps}, num_inference_steps: {steps} }}
streaming:
  generation_segment_cap: 1000
  preset: {preset}
  pool: {{ num_workers: 100 }}
  mock: {{ step_ms: {step_ms} }}
"""


class Watcher:
    """A client: when each fragment of each segment came."""

    def __init__(self, socket_: ClientConnection) -> None:
        self._socket = socket_

    def ask(self, prompt: str) -> None:
        self._socket.send(json.dumps({"type": "segment_prompt_source", "prompt": prompt, "seed": 1}))

    def segment(self) -> tuple[float, float]:
        """When the first and the last fragment of the next segment came."""
        media: list[float] = []
        while True:
            message = self._socket.recv(timeout=120)
            if isinstance(message, bytes):
                media.append(time.perf_counter())
                continue
            kind = json.loads(message)["type"]
            if kind in ("error", "ltx2_stream_complete"):
                raise RuntimeError(message)
            if kind == "ltx2_segment_complete":
                return media[1], media[-1]  # the first is the initialisation

    def until(self, wanted: str) -> None:
        while isinstance(message := self._socket.recv(timeout=120), bytes) or json.loads(message)["type"] != wanted:
            pass


def measured(watcher: Watcher, segments: int, steps_s: float) -> dict[str, list[float]]:
    """Milliseconds beyond the steps' own time."""
    first, gaps = [], []
    for number in range(segments):
        asked = time.perf_counter()
        watcher.ask(f"alone {number}")
        first.append(watcher.segment()[0] - asked - steps_s)
        time.sleep(0.2)
    for number in range(segments + 1):
        watcher.ask(f"ahead {number}") if number < 2 else None
    _, last = watcher.segment()
    for number in range(segments):
        if number < segments - 1:
            watcher.ask(f"next {number}")
        begins, ends = watcher.segment()
        gaps.append(begins - last - steps_s)
        last = ends
    return {"first": [value * 1000 for value in first], "gap": [value * 1000 for value in gaps]}


@contextmanager
def vgen(folder: Path, size: tuple[int, int], step_s: float, *, mock: bool, gpus: int = 1) -> Iterator[str]:
    (folder / "serve.yaml").write_text(
        CONFIG.format(
            width=size[0],
            height=size[1],
            frames=FRAMES,
            fps=FPS,
            steps=STEPS,
            preset="mock" if mock else "idle",
            step_ms=step_s * 1000,
        )
    )
    os.environ["VGEN_IDLE_STEP_S"] = str(step_s)
    options = ["--mock"] if mock else []
    with serving(folder / "home", "--config", folder / "serve.yaml", *options) as server:
        end = time.monotonic() + 120
        while not mock and server.client.get("/readyz").json()["ready_gpu_workers"] < gpus:
            if time.monotonic() > end:
                raise RuntimeError(f"{gpus} workers were not ready in two minutes")
            time.sleep(0.2)
        yield f"ws://{server.client.base_url.host}:{server.client.base_url.port}/v1/stream"


@contextmanager
def bare(size: tuple[int, int], step_s: float) -> Iterator[str]:
    """The loop: it keeps nothing, screens nothing, and has one client."""
    track = Track(*size, FPS, FRAMES)
    frames = [bytes([number]) * track.frame_bytes for number in range(FRAMES)]

    def answer(connection: ServerConnection) -> None:
        for message in connection:
            if json.loads(message)["type"] != "segment_prompt_source":
                continue
            time.sleep(STEPS * step_s)
            encoder = FragmentedMp4Encoder(track, on_chunk=lambda chunk: connection.send(chunk.data))
            for frame in frames:
                encoder.write(frame)
            encoder.finish()
            connection.send(json.dumps({"type": "ltx2_segment_complete"}))

    listener = socket.create_server(("127.0.0.1", 0))
    with serve(answer, sock=listener) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


def run(make: Callable[[], Any], segments: int, steps_s: float, *, begins: bool) -> dict[str, list[float]]:
    with make() as url, connect(url, compression=None, max_size=None) as connection:
        watcher = Watcher(connection)
        if begins:
            connection.send(json.dumps({"type": "session_init_v2"}))
            watcher.until("ltx2_stream_start")
        watcher.ask("warm-up")
        watcher.segment()
        return measured(watcher, segments, steps_s)


@contextmanager
def cluster(folder: Path, size: tuple[int, int], step_s: float, workers: int) -> Iterator[str]:
    """A server and so many hosts of one GPU worker each, which share nothing but the three servers."""
    with running_cluster(folder) as line:
        live = {"VGEN_STREAM_CHUNKS_URL": line.redis.url, "VGEN_IDLE_STEP_S": str(step_s), "VGEN_STREAM_GPU_SHARE": "1"}
        hosts = []
        for number in range(workers):
            line.start_worker(workers=3 * (number + 1), **live, VGEN_HANDOFF_DIR=str(folder / f"handoff-{number}"))
            hosts.append(line.worker)
        os.environ |= {**line.env, **live, "VGEN_HANDOFF_DIR": str(folder / "handoff-server")}
        try:
            with vgen(folder, size, step_s, mock=False, gpus=workers) as url:
                yield url
        finally:
            for host in hosts:
                host.terminate() if host else None


def together(make: AbstractContextManager[str], sessions: int, segments: int) -> int:
    """Watch so many sessions at once, and say how alike they fared."""

    def watch(url: str) -> tuple[float, list[float]]:
        with connect(url, compression=None, max_size=None, open_timeout=60) as connection:
            watcher = Watcher(connection)
            connection.send(json.dumps({"type": "session_init_v2"}))
            watcher.until("ltx2_stream_start")
            begun, first = time.perf_counter(), []
            for number in range(segments):
                asked = time.perf_counter()
                watcher.ask(str(number))
                first.append(watcher.segment()[0] - asked)
            return time.perf_counter() - begun, first

    with make as url, ThreadPoolExecutor(sessions) as pool:
        results = list(pool.map(watch, [url] * sessions))
    took = sorted(seconds for seconds, _ in results)
    waits = [wait for _, first in results for wait in first]
    print(f"{sessions} sessions of {segments} segments of {FRAMES / FPS:g} s: {took[0]:.1f} s to {took[-1]:.1f} s")
    print(f"median {statistics.median(took):.1f} s; wait for a first fragment, steps included: "
          f"p50 {statistics.median(waits):.2f} s, longest {max(waits):.2f} s")  # fmt: skip
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=12)
    parser.add_argument("--step-s", type=float, default=0.05)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--mock", action="store_true")
    parser.add_argument("--sessions", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="with --sessions: a cluster of so many GPU workers")
    options = parser.parse_args(arguments)
    if options.sessions and not (options.mock or options.workers):
        parser.error("--sessions needs --mock or --workers")
    size, steps_s = SIZES[options.size], STEPS * options.step_s
    if options.sessions:
        with tempfile.TemporaryDirectory(prefix="vgen-bench-") as folder:
            if options.workers:
                made = cluster(Path(folder), size, options.step_s, options.workers)
            else:
                made = vgen(Path(folder), size, options.step_s, mock=True)
            return together(made, options.sessions, options.segments)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {_commit()}: {options.segments} segments of {FRAMES} frames, "
          f"{size[0]}×{size[1]}, {STEPS} steps of {options.step_s:g} s; milliseconds beyond the steps")  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="vgen-bench-") as folder:
        own = run(
            lambda: vgen(Path(folder), size, options.step_s, mock=options.mock), options.segments, steps_s, begins=True
        )
    loop = run(lambda: bare(size, options.step_s), options.segments, steps_s, begins=False)
    for what in ("first", "gap"):
        for name, values in ((f"vgen{' --mock' if options.mock else ''}", own[what]), ("bare loop", loop[what])):
            print(f"{what:5} {name:12} p50 {statistics.median(values):7.1f}  p99 {_p99(values):7.1f}")
        print(f"{what:5} vgen adds    p50 {statistics.median(own[what]) - statistics.median(loop[what]):7.1f}")
    return 0


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, round(0.99 * (len(values) - 1)))]


def _commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
