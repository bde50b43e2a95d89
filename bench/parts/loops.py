"""The loop that a user would write: a warm pipeline, diffusers' ``export_to_video``, an upload with boto3."""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import boto3.session

from bench.together import seconds_together
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
    """The work of each process of the loop: ``clips`` of ``make``, with encoding and upload in a thread or in turn."""

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
    with servers.rclone_s3_server() as server:
        bucket = servers.fresh_bucket(server)
        return seconds_together(_run, loop, bucket.endpoint_url, bucket.name, processes=processes)


def _run(number: int, begin: Callable[[], object], loop: Loop, url: str, bucket: str) -> None:
    from diffusers.utils import export_to_video  # noqa: PLC0415

    store = boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1").client("s3", endpoint_url=url)
    with tempfile.TemporaryDirectory() as folder:

        def keep(clip: int, frames: Any) -> None:
            path = f"{folder}/{clip}.mp4"
            export_to_video(frames, path, fps=loop.fps, quality=loop.quality)
            store.upload_file(path, bucket, f"{number}/{clip}.mp4")
            Path(path).unlink()

        loop.make.warm()
        keep(-1, loop.make(-1))
        begin()
        if loop.threaded:
            _with_a_thread(loop, keep)
        else:
            for clip in range(loop.clips):
                keep(clip, loop.make(clip))


def _with_a_thread(loop: Loop, keep: Any) -> None:
    clips: queue.Queue[tuple[int, Any] | None] = queue.Queue(maxsize=2)
    """Frames of a clip are 400 MB as a pipeline returns them: no more than two clips wait."""

    def keep_all() -> None:
        while (item := clips.get()) is not None:
            keep(*item)

    thread = threading.Thread(target=keep_all)
    thread.start()
    for clip in range(loop.clips):
        clips.put((clip, loop.make(clip)))
    clips.put(None)
    thread.join()
