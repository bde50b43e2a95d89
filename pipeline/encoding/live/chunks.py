"""The inputs and outputs of a live encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

CHANNELS = 3


class Mode(StrEnum):
    """How a session's pictures travel; the names are those of the protocol."""

    AV_FMP4 = "av_fmp4"
    """Fragmented MP4, for a browser's MediaSource."""
    LEGACY_JPEG = "legacy_jpeg"
    """One JPEG picture a frame, without sound."""


class ChunkKind(StrEnum):
    """What a chunk holds."""

    INIT = "init"
    """What a player needs before all else. Of pictures it is empty."""
    MEDIA = "media"
    """A fragment, or one picture."""


@dataclass(frozen=True, slots=True)
class Track:
    """The pictures of one segment: sides in pixels, frames a second, and how many frames there will be."""

    width: int
    height: int
    fps: float
    num_frames: int

    @property
    def frame_bytes(self) -> int:
        """Return the size of one frame, H × W × 3 uint8."""
        return self.width * self.height * CHANNELS

    @property
    def seconds(self) -> float:
        return self.num_frames / self.fps


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a segment's stream: fragments count from 0, the initialisation is before them (-1)."""

    kind: ChunkKind
    index: int
    data: bytes
    mime: str = ""
    """Of an initialisation alone: what a player must be told."""


OnChunk = Callable[[Chunk], None]


class LiveEncoder(Protocol):
    """One segment's encoder: frames go in one by one, chunks come out as soon as they are whole."""

    def write(self, frame: bytes | memoryview) -> None:
        """Take one frame (H × W × 3 uint8, RGB); it blocks while the encoder is behind.

        Raises:
            FatalError: code ``frames_mismatch``; it is not of the track's size.
            RetryableError: code ``encoder_failed``; nothing is left of it then.
        """

    def finish(self) -> int:
        """Return how many media chunks there were, once the last one is out.

        Raises:
            RetryableError: code ``encoder_failed`` or ``encoder_timeout``.
        """

    def abort(self) -> None:
        """End it, whatever it does; nothing is left behind. After ``finish`` it does nothing."""
