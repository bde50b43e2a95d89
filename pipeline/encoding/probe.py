"""Reads the properties of a finished video file by decoding it completely."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from pipeline.errors import RetryableError
from pipeline.media.frames import video_stream
from pipeline.media.opening import UnreadableMediaError, open_media
from pipeline.rates import rational_fps

_FRAMES_PER_CHECK = 8
_AAC_PACKET = 1024
"""Samples of each channel (ISO/IEC 14496-3, AAC LC)."""


@dataclass(frozen=True, slots=True)
class SoundFacts:
    """A track of sound as decoded."""

    codec: str
    sample_rate: int
    channels: int
    duration_s: float


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
    sound: SoundFacts | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the facts as JSON, without ``sound`` where there is none."""
        return {name: value for name, value in asdict(self).items() if name != "sound" or value is not None}


def probe(path: Path, check: Callable[[], None] = lambda: None) -> VideoFacts:
    """Decode the first video stream and say what it is. ``check`` is called every few frames.

    Raises:
        RetryableError: code ``encode_mismatch``; it is not a video, or it does not decode to its end.
    """
    try:
        with open_media(path) as container:
            stream = video_stream(container)
            # Deblocking cannot fail, and nobody looks at these frames: a tenth of the decoder's time.
            stream.codec_context.options = {**stream.codec_context.options, "skip_loop_filter": "all"}
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
                sound=_probe_sound(path, check) if container.streams.audio else None,
            )
    except UnreadableMediaError as error:
        raise RetryableError(f"{path}: {error}", code="encode_mismatch") from error


def has_sound(path: Path) -> bool:
    """Return whether a video has a track of sound.

    Raises:
        RetryableError: code ``encode_mismatch``; it cannot be opened.
    """
    try:
        with open_media(path) as container:
            return bool(container.streams.audio)
    except UnreadableMediaError as error:
        raise RetryableError(f"{path}: {error}", code="encode_mismatch") from error


def _probe_sound(path: Path, check: Callable[[], None]) -> SoundFacts:
    with open_media(path) as container:
        stream = container.streams.audio[0]
        samples = 0
        for number, frame in enumerate(container.decode(stream)):
            if number % _FRAMES_PER_CHECK == 0:
                check()
            samples += frame.samples
        rate = stream.codec_context.sample_rate
        return SoundFacts(
            codec=stream.codec_context.codec.canonical_name,
            sample_rate=rate,
            channels=stream.codec_context.channels,
            duration_s=samples / rate if rate else 0.0,
        )


def verify_sound(facts: VideoFacts, *, duration_s: float | None) -> None:
    """Compare the track of sound with what was asked for; None is no track.

    AAC comes in packets of 1024 samples, and a decoder may give up to two more or fewer at the ends.

    Raises:
        RetryableError: code ``encode_mismatch``.
    """
    sound = facts.sound
    if duration_s is None and sound is None:
        return
    if duration_s is None or sound is None:
        raise RetryableError(
            f"the encoded file has {'no' if sound is None else 'a'} track of sound", code="encode_mismatch"
        )
    if abs(sound.duration_s - duration_s) > 2 * _AAC_PACKET / sound.sample_rate:
        raise RetryableError(
            f"the encoded file has {sound.duration_s:.3f} s of sound in place of {duration_s:.3f} s",
            code="encode_mismatch",
        )


def verify(facts: VideoFacts, *, width: int, height: int, num_frames: int, fps: float) -> None:
    """Compare a file with what was asked of the encoder.

    Raises:
        RetryableError: code ``encode_mismatch``; the message names each value that differs.
    """
    expected = {"width": width, "height": height, "num_frames": num_frames, "fps": str(rational_fps(fps))}
    wrong = [
        f"{name} {getattr(facts, name)} in place of {value}"
        for name, value in expected.items()
        if getattr(facts, name) != value
    ]
    if wrong:
        raise RetryableError(f"the encoded file has {', '.join(wrong)}", code="encode_mismatch")
