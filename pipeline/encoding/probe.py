"""What a finished video file really holds, found by decoding it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from pipeline.encoding.codecs import rational_fps
from pipeline.errors import RetryableError

_FRAMES_PER_CHECK = 8


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """A video stream as decoded. Sizes are pixels; ``fps`` is a fraction as text, such as ``30000/1001``."""

    codec: str
    pixel_format: str
    width: int
    height: int
    num_frames: int
    fps: str
    duration_s: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def probe(path: Path, check: Callable[[], None] = lambda: None) -> VideoFacts:
    """Decode the first video stream and say what it is. ``check`` is called every few frames.

    Raises:
        RetryableError: code ``encode_mismatch``; it is no video, or it does not decode to its end.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise RetryableError(f"{path} has no video stream", code="encode_mismatch")
            stream = container.streams.video[0]
            frames = 0
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise RetryableError(f"{path}: frame {frames} is corrupt", code="encode_mismatch")
                if frames % _FRAMES_PER_CHECK == 0:
                    check()
                frames += 1
            context, rate = stream.codec_context, stream.average_rate or Fraction(0)
            return VideoFacts(
                codec=context.codec.canonical_name,
                pixel_format=context.pix_fmt or "",
                width=context.width,
                height=context.height,
                num_frames=frames,
                fps=str(rate),
                duration_s=float(frames / rate) if rate else 0.0,
            )
    except FFmpegError as error:
        raise RetryableError(f"{path} cannot be decoded: {error}", code="encode_mismatch") from error


def verify(facts: VideoFacts, *, width: int, height: int, num_frames: int, fps: float) -> None:
    """Compare a file with what was asked of the encoder.

    Raises:
        RetryableError: code ``encode_mismatch``; the message names each value that differs.
    """
    wanted = {"width": width, "height": height, "num_frames": num_frames, "fps": str(rational_fps(fps))}
    wrong = [
        f"{name} {getattr(facts, name)} in place of {value}"
        for name, value in wanted.items()
        if getattr(facts, name) != value
    ]
    if wrong:
        raise RetryableError(f"the encoded file has {', '.join(wrong)}", code="encode_mismatch")
