"""Measures the CPU time of a clip's work alone, without vgen around it, while all cores are busy.

CPU time taken on a machine that does nothing else is too little, since cores share caches and memory. So as many
processes as there are cores do a clip's work again and again, and what they get through is what the cores allow.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.together import seconds_together
from pipeline.encoding import ffmpeg, pictures
from pipeline.encoding.probe import probe
from pipeline.files.digests import facts_of, file_sha256
from pipeline.files.object_names import MEDIA_TYPES, media_key
from pipeline.generators.frames_file import write_frames
from pipeline.handoff import Handoff
from pipeline.settings import load_settings
from pipeline.spec import EncodeOptions, JobSpec
from pipeline.storage.base import Storage
from pipeline.wiring import make_storage
from tests import servers

_CLIPS = 16
"""The clips of each process; the one that all begin with is not counted."""


@dataclass(frozen=True, slots=True)
class ClipWork:
    """Raw frames (F × H × W × 3 uint8) as a generator leaves them, and how they become a stored clip."""

    raw: str
    spec: JobSpec
    options: EncodeOptions

    def __call__(self, handoff: Handoff, storage: Storage, job_id: str) -> None:
        """What the generator's child and the encode stage do: hand over, check, encode, decode, pictures, upload."""
        spec = self.spec
        sizes = {"width": spec.width, "height": spec.height, "num_frames": spec.num_frames}
        room = handoff.frames_path(job_id, 0, 0, 1)
        frames = np.memmap(self.raw, np.uint8, "r", shape=(spec.num_frames, spec.height * spec.width * 3))
        handoff.reserve(room, frames.nbytes)
        write_frames(room, spec, (frame.data for frame in frames))
        file_sha256(room)
        paths = {"video": room.with_suffix(".mp4"), "poster": room.with_suffix(".jpg")}
        paths["strip"] = room.with_suffix(".strip.jpg")
        ffmpeg.encode(
            room,
            paths["video"],
            **sizes,
            fps=spec.fps,
            options=self.options,
            metadata={},
            check=lambda: None,
            timeout_s=600.0,
        )
        probe(paths["video"])
        pictures.make_poster(room, paths["poster"], **sizes)
        pictures.make_strip(room, paths["strip"], **sizes)
        for kind, path in paths.items():
            sha256 = facts_of(path)["sha256"]
            key = media_key(job_id, sha256, path.suffix[1:])
            storage.put_file(key, path, sha256=sha256, content_type=MEDIA_TYPES[kind])
        handoff.free(room)


def core_seconds(work: ClipWork, processes: int, handoff: Path | None) -> float:
    """Core-seconds that a clip takes while so many processes, one for each core, do nothing but such clips.

    ``handoff``: where the line's frames lie, such as a folder in shared memory; None is the default for such files.

    Raises:
        SystemExit: a process failed.
    """
    with servers.rclone_s3_server() as server, tempfile.TemporaryDirectory(dir=handoff) as folder:
        bucket = servers.fresh_bucket(server)
        return seconds_together(_run, work, Path(folder), bucket.storage, bucket.s3, processes=processes) / _CLIPS


def _run(
    number: int, begin: Callable[[], object], work: ClipWork, folder: Path, storage: str, s3: dict[str, str]
) -> None:
    store = make_storage(load_settings(storage=storage, s3=s3))
    handoff = Handoff.open(folder, 2**40)
    work(handoff, store, f"{number}-warm")
    begin()
    for clip in range(_CLIPS):
        work(handoff, store, f"{number}-{clip}")
