"""The loop that a user would write: a warm pipeline, diffusers' ``export_to_video``, upload with boto3."""

from __future__ import annotations

import multiprocessing
import queue
import tempfile
import threading
import time
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Protocol

import boto3.session

from tests import servers
from tests.servers import ACCESS_KEY, SECRET_KEY

SAME_QUALITY = 6.4
"""The number of ``export_to_video`` that makes x264's CRF 18 of it, with its preset medium: the line's own settings.
imageio-ffmpeg computes ``int((1 - quality / 10) * 51)``; 5, the default, is CRF 25."""


class Maker(Protocol):
    """Makes clips; it is pickled into the loop's process."""

    def warm(self) -> None:
        """Load what is needed."""

    def __call__(self, clip: int) -> Any:
        """The clip's frames as a pipeline returns them: F × H × W × 3 float32 between 0 and 1."""


@dataclass(frozen=True, slots=True)
class Loop:
    """What each process of the loop does: ``clips`` of ``make``, with encoding and upload in a thread or in turn."""

    make: Maker
    clips: int
    fps: int
    quality: float
    threaded: bool


def run_loops(loop: Loop, processes: int) -> float:
    """Wall seconds from when all processes are warm to the last upload.

    Raises:
        SystemExit: a process failed.
    """
    context = multiprocessing.get_context("spawn")
    with servers.rclone_s3_server() as server:
        bucket = servers.fresh_bucket(server)
        warm = context.Barrier(processes + 1)
        running = [
            context.Process(target=_run, args=(loop, str(number), bucket.endpoint_url, bucket.name, warm))
            for number in range(processes)
        ]
        for process in running:
            process.start()
        warm.wait()
        start = time.perf_counter()
        for process in running:
            process.join()
        took = time.perf_counter() - start
    if any(process.exitcode for process in running):
        raise SystemExit("a hand-written loop failed")
    return took


def _run(loop: Loop, name: str, url: str, bucket: str, warm: Barrier) -> None:
    from diffusers.utils import export_to_video  # noqa: PLC0415

    store = boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1").client("s3", endpoint_url=url)
    with tempfile.TemporaryDirectory() as folder:

        def keep(clip: int, frames: Any) -> None:
            path = f"{folder}/{clip}.mp4"
            export_to_video(frames, path, fps=loop.fps, quality=loop.quality)
            store.upload_file(path, bucket, f"{name}/{clip}.mp4")
            Path(path).unlink()

        try:
            loop.make.warm()
            keep(-1, loop.make(-1))
        except BaseException:
            warm.abort()
            raise
        warm.wait()
        if loop.threaded:
            _with_a_thread(loop, keep)
        else:
            for clip in range(loop.clips):
                keep(clip, loop.make(clip))


def _with_a_thread(loop: Loop, keep: Any) -> None:
    made: queue.Queue[tuple[int, Any] | None] = queue.Queue(maxsize=2)
    """Frames of a clip are 400 MB as a pipeline returns them: no more than two clips wait."""

    def keep_all() -> None:
        while (item := made.get()) is not None:
            keep(*item)

    thread = threading.Thread(target=keep_all)
    thread.start()
    for clip in range(loop.clips):
        made.put((clip, loop.make(clip)))
    made.put(None)
    thread.join()
