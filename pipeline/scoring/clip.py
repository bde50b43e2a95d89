"""A clip in memory: decoded once by PyAV, shared by every metric."""

import hashlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RefusedError
from pipeline.media.frames import hdr_of, losses, shown_aspect, shown_pixels, sound_frames, video_stream
from pipeline.media.opening import UnreadableMediaError, open_media

Frames = NDArray[np.uint8]
Value = TypeVar("Value")

MAX_BYTES = 4 * 1024**3
"""Most bytes of decoded frames held at once: 81 frames of 832x480 are 97 MB, so only a wrong file comes near."""
_FRAME_BYTES = 256
"""The memory of a frame beside its pixels: a file may have millions of frames of one pixel."""


@dataclass(frozen=True, eq=False)
class Clip:
    """A decoded video."""

    path: Path
    frames: Frames
    """uint8 RGB, (frames, height, width, 3), upright; at least one frame. Read-only."""
    fps: Fraction | None
    """The rate by the container; None when it has none."""
    has_audio: bool
    pixel_aspect: Fraction = Fraction(1)
    """Width of a pixel by its height."""
    notes: tuple[str, ...] = ()
    """Properties of the video that its frames do not show, a sentence's end each."""
    _found: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @property
    def height(self) -> int:
        return int(self.frames.shape[1])

    @property
    def width(self) -> int:
        return int(self.frames.shape[2])

    @property
    def shown_width(self) -> int:
        """Pixels across where they are square, as a player shows the clip."""
        return round(self.width * self.pixel_aspect)

    def once(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return what ``make`` gives, computed once per clip: features that several metrics use."""
        if key not in self._found:
            self._found[key] = make()
        value: Value = self._found[key]
        return value


def read_clip(path: Path, max_bytes: int = MAX_BYTES) -> Clip:
    """Decode the first video stream of a file.

    Raises:
        RefusedError: code ``eval_clip_unreadable``: no such file, no video in it, it does not decode to its end, its
            frames change size, or it is larger than ``max_bytes``.
    """
    try:
        with open_media(path) as container:
            stream = video_stream(container)
            decoded = _decode(path, stream, container.decode(stream), max_bytes)
            end_s = decoded.end_s
            fps = stream.guessed_rate or stream.average_rate
            said_s = _container_seconds(stream.metadata)
            if fps and end_s is not None and said_s is not None and end_s + 2 / fps < said_s:
                raise _unreadable(path, f"it is cut short: {end_s + 1 / fps:.3g} s of {said_s:.3g} s are there")
            has_audio = bool(container.streams.audio)
    except UnreadableMediaError as error:
        raise _unreadable(path, str(error)) from error
    if not decoded.frames:
        raise _unreadable(path, "it has no frames")
    stacked = np.stack(decoded.frames)
    stacked.flags.writeable = False
    return Clip(path, stacked, fps or None, has_audio, decoded.aspect, tuple(decoded.notes))


def pixel_digest(clip: Clip) -> str:
    """sha256 of the decoded frames and their shape: two files with the same one show the same pictures."""
    digest = hashlib.sha256(repr(clip.frames.shape).encode())
    digest.update(clip.frames.data)
    return digest.hexdigest()


def _container_seconds(metadata: Mapping[str, str]) -> float | None:
    """Return the stream's length by Matroska and WebM: such a file that was cut off decodes without an error."""
    try:
        hours, minutes, seconds = metadata.get("DURATION", "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


@dataclass
class _Decoded:
    """A stream's frames so far."""

    frames: list[Frames] = field(default_factory=list)
    end_s: float | None = None
    """The time at which the last frame begins, where the container has it."""
    aspect: Fraction = Fraction(1)
    notes: dict[str, None] = field(default_factory=dict)


def _decode(path: Path, stream: Any, frames: Any, max_bytes: int) -> _Decoded:
    decoded = _Decoded()
    for number, frame in enumerate(sound_frames(frames)):
        # Before its pixels are made: a clip that is too large takes no more memory than is allowed.
        if (number + 1) * (frame.width * frame.height * 3 + _FRAME_BYTES) > max_bytes:
            raise _unreadable(path, f"its frames need more than {max_bytes / 1024**3:g} GiB of memory")
        if frame.time is not None:
            decoded.end_s = max(frame.time, decoded.end_s or 0.0)
        if number == 0:
            decoded.aspect = shown_aspect(stream, frame)
        if (transfer := hdr_of(frame)) is not None:
            decoded.notes[f"is HDR, {transfer}: its scores are of flat and grey frames"] = None
        decoded.notes.update(dict.fromkeys(losses(frame)))
        decoded.frames.append(shown_pixels(frame))
    return decoded


def _unreadable(path: Path, why: str) -> RefusedError:
    return RefusedError(f"{path}: {why}", code="eval_clip_unreadable")
