"""Joins the raw sound of a clip's segments to one track, which is encoded once.

Packets of AAC are never put one after the other: each run of an encoder begins with samples of its own (its priming),
and ends in a packet that it fills up, so that every seam would be a gap, and sound and picture would drift apart.
"""

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.encoding.ffmpeg import AUDIO_OPTIONS, Sound, audio_input, metadata_input, metadata_options, run_ffmpeg
from pipeline.errors import RetryableError
from pipeline.media.opening import UnreadableMediaError, ffmpeg_input, ffmpeg_program, open_media
from pipeline.rates import rational_fps

Samples = np.ndarray[Any, np.dtype[np.float32]]
"""Samples × channels."""
_HASHED_AT_ONCE = 1 << 20
"""Samples: some eight megabytes of two channels."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Raw sound from a frame of the clip on. ``path`` as ``ffmpeg.Sound``; ``begins`` is negative where its beginning
    is no part of the clip."""

    path: Path
    begins: int
    sample_rate: int
    channels: int


def sample_at(frame: int, fps: float, sample_rate: int) -> int:
    """The sample with which a frame begins: of the clip's own clock, so that no error adds up from piece to piece."""
    return round(frame * sample_rate / rational_fps(fps))


def mix(
    pieces: Sequence[Piece], out_path: Path, *, fps: float, num_frames: int, check: Callable[[], None]
) -> dict[str, Any]:
    """Write the pieces as one, exactly as long as the frames.

    Returns ``sample_rate``, ``channels``, ``num_samples`` and ``sha256``.

    Where a piece begins before the one before has ended, both sound of the same frames: the first fades out while the
    second fades in, in equal shares. What no piece covers is silent.

    Raises:
        RetryableError: code ``encode_mismatch``; the pieces are of several rates or channels, or end within a sample.
    """
    first = pieces[0]
    if any((piece.sample_rate, piece.channels) != (first.sample_rate, first.channels) for piece in pieces):
        raise _mismatch("the segments' sounds have several rates or numbers of channels")
    rate, channels = first.sample_rate, first.channels
    total = sample_at(num_frames, fps, rate)
    out_path.write_bytes(b"")
    with out_path.open("r+b") as file:
        file.truncate(total * channels * 4)
    track: Samples = np.memmap(out_path, np.dtype("<f4"), "r+", shape=(total, channels))
    covered = 0
    for piece in pieces:
        check()
        begin = sample_at(piece.begins, fps, rate)
        covered = max(covered, _lay(track, _read(piece), begin, covered))
    digest = hashlib.sha256()
    for start in range(0, total, _HASHED_AT_ONCE):
        check()
        digest.update(track[start : start + _HASHED_AT_ONCE].tobytes())
    track.flush()  # type: ignore[attr-defined]
    return {"sample_rate": rate, "channels": channels, "num_samples": total, "sha256": digest.hexdigest()}


def _lay(track: Samples, samples: Samples, begin: int, covered: int) -> int:
    """Put a piece's samples where they belong; where they end."""
    samples = samples[max(0, -begin) :]
    begin = max(0, begin)
    samples = samples[: len(track) - begin]
    end = begin + len(samples)
    overlap = max(0, min(covered, end) - begin)
    # The shares of the first and the last sample are not nought and one: both are heard in each.
    share = (np.arange(1, overlap + 1, dtype=np.float32) / np.float32(overlap + 1))[:, None]
    track[begin : begin + overlap] += share * (samples[:overlap] - track[begin : begin + overlap])
    track[begin + overlap : end] = samples[overlap:]
    return end


def _read(piece: Piece) -> Samples:
    size = piece.path.stat().st_size
    if size % (4 * piece.channels):
        raise _mismatch(f"{piece.path} has {size} bytes, which is not a multiple of {4 * piece.channels}")
    return np.fromfile(piece.path, np.dtype("<f4")).reshape(-1, piece.channels)


def add(
    video: Path,
    sound: Sound,
    out_path: Path,
    *,
    metadata: Mapping[str, str],
    check: Callable[[], None],
    timeout_s: float,
) -> None:
    """Copy the video's packets to ``out_path`` and put the sound beside them, as a track of AAC.

    Raises:
        RetryableError: code ``encoder_failed``, ``encoder_timeout`` or ``disk_full``.
    """
    command = [
        *(ffmpeg_program(), "-hide_banner", "-nostats", "-loglevel", "error", "-y"),
        *(*ffmpeg_input(video), *audio_input(sound, "pipe:0"), *metadata_input(metadata)),
        *("-map", "0:v", "-map", "1:a", "-c:v", "copy", *AUDIO_OPTIONS, *metadata_options(metadata, number=2)),
        *("-movflags", "+faststart", "-f", "mp4", f"file:{out_path}"),
    ]
    run_ffmpeg(command, "aac", sound.path, sound.path.stat().st_size, out_path, check, timeout_s, metadata=metadata)


def decode(video: Path, out_path: Path, *, fps: float, num_frames: int, check: Callable[[], None]) -> tuple[int, int]:
    """Write a video's track of sound as raw samples, as long as its frames; samples a second, and channels.

    Raises:
        RetryableError: code ``encode_mismatch``; it has none, or it cannot be decoded.
    """
    with contextlib.ExitStack() as stack:
        try:
            container = stack.enter_context(open_media(video))
            if not container.streams.audio:
                raise _mismatch(f"{video} has no track of sound")
            stream = container.streams.audio[0]
            rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
            samples_left = sample_at(num_frames, fps, rate)
            with out_path.open("wb") as file:
                for frame in container.decode(stream):
                    check()
                    data = frame.to_ndarray()
                    samples = data.T if frame.format.is_planar else data.reshape(-1, channels)
                    file.write(np.ascontiguousarray(samples[:samples_left], dtype="<f4").tobytes())
                    samples_left -= min(samples_left, len(samples))
                file.write(bytes(samples_left * channels * 4))
        except UnreadableMediaError as error:
            raise _mismatch(f"the sound of {video}: {error}") from error
    return rate, channels


def _mismatch(message: str) -> RetryableError:
    return RetryableError(message, code="encode_mismatch")
