"""A clip in memory: decoded once by PyAV, shared by every metric."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from pipeline.errors import RefusedError

Frames = NDArray[np.uint8]
Value = TypeVar("Value")

MAX_BYTES = 4 * 1024**3
"""Most bytes of decoded frames held at once: 81 frames of 832x480 are 97 MB, so only a wrong file comes near."""
DECODER = f"PyAV {av.__version__}"


@dataclass(frozen=True, eq=False)
class Clip:
    """A decoded video."""

    path: Path
    frames: Frames
    """uint8 RGB, (frames, height, width, 3); at least one frame. Read-only."""
    fps: Fraction | None
    """As the container says; None when it does not."""
    has_audio: bool
    _found: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @property
    def height(self) -> int:
        return int(self.frames.shape[1])

    @property
    def width(self) -> int:
        return int(self.frames.shape[2])

    def once(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """What ``make`` gives, computed once per clip: features that several metrics use."""
        if key not in self._found:
            self._found[key] = make()
        found: Value = self._found[key]
        return found


def read_clip(path: Path, max_bytes: int = MAX_BYTES) -> Clip:
    """Decode the first video stream of a file.

    Raises:
        RefusedError: code ``eval_clip_unreadable``: no such file, no video in it, it does not decode to its end, its
            frames change size, or it is larger than ``max_bytes``.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise _unreadable(path, "it has no video stream")
            stream = container.streams.video[0]
            frames, end_s = _decode(path, container.decode(stream), max_bytes)
            fps = stream.guessed_rate or stream.average_rate
            said_s = _said_seconds(stream.metadata)
            if fps and end_s is not None and said_s is not None and end_s + 2 / fps < said_s:
                raise _unreadable(path, f"it is cut short: {end_s + 1 / fps:.3g} s of {said_s:.3g} s are there")
            has_audio = bool(container.streams.audio)
    except FFmpegError as error:
        raise _unreadable(path, f"it cannot be decoded: {error.strerror or error}") from error
    if not frames:
        raise _unreadable(path, "it has no frames")
    stacked = np.stack(frames)
    stacked.flags.writeable = False
    return Clip(path, stacked, fps or None, has_audio)


def pixel_digest(clip: Clip) -> str:
    """sha256 of the decoded frames and their shape: two files with the same one show the same pictures."""
    digest = hashlib.sha256(repr(clip.frames.shape).encode())
    digest.update(clip.frames.data)
    return digest.hexdigest()


def _said_seconds(metadata: Mapping[str, str]) -> float | None:
    """How long Matroska and WebM say that the stream is: such a file that was cut off decodes without an error."""
    try:
        hours, minutes, seconds = metadata.get("DURATION", "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


def _decode(path: Path, decoded: Any, max_bytes: int) -> tuple[list[Frames], float | None]:
    """The frames, and when the last one begins (s), where the container says."""
    frames: list[Frames] = []
    last_s = None
    for frame in decoded:
        last_s = last_s if frame.time is None else max(frame.time, last_s or 0.0)
        if frame.is_corrupt:
            raise _unreadable(path, f"frame {len(frames)} is corrupt")
        pixels: Frames = frame.to_ndarray(format="rgb24")
        if frames and pixels.shape != frames[0].shape:
            raise _unreadable(path, f"frame {len(frames)} has another size than the first")
        frames.append(pixels)
        if len(frames) * pixels.nbytes > max_bytes:
            raise _unreadable(path, f"its frames need more than {max_bytes / 1024**3:g} GiB of memory")
    return frames, last_s


def _unreadable(path: Path, why: str) -> RefusedError:
    return RefusedError(f"{path}: {why}", code="eval_clip_unreadable")
