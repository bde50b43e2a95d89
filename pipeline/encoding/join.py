"""Joins encoded segments to one video by copying their packets, without encoding again."""

import errno
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError
from PIL import Image

from pipeline.errors import RetryableError
from pipeline.media.opening import UnreadableMediaError, open_media

_PACKETS_PER_CHECK = 64


def join(
    parts: Sequence[Path],
    counts: Sequence[int],
    out_path: Path,
    *,
    metadata: Mapping[str, str],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write the parts, which have so many frames each, as one MP4 whose bytes depend on the arguments alone.

    Raises:
        RetryableError: code ``encode_mismatch``; the parts do not fit each other, or a seam is not exact: a frame is
            missing or doubled, or a segment does not begin with a keyframe. Code ``disk_full``.
    """
    options = {"movflags": "faststart", "fflags": "bitexact"}
    try:
        with av.open(f"file:{out_path}", "w", format="mp4", options=options) as target:
            target.metadata.update({name: text.replace("\0", " ") for name, text in metadata.items()})
            _copy(parts, counts, target, check)
        check_seams(out_path, counts, check)
    except BaseException as error:
        out_path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RetryableError(f"{out_path}: {error.strerror}", code="disk_full") from error
        if isinstance(error, FFmpegError | UnreadableMediaError):
            raise _mismatch(f"the segments cannot be joined: {error}") from error
        raise


def _copy(parts: Sequence[Path], counts: Sequence[int], target: Any, check: Callable[[], None]) -> None:
    delay = _most_reordered(parts, counts, check)
    stream, shape, copied = None, None, 0
    for number, part in enumerate(parts, 1):
        with open_media(part) as source:
            video = source.streams.video[0]
            stream_format = (
                video.codec_context.name,
                video.codec_context.extradata,
                video.time_base,
                video.average_rate,
            )
            if stream is None:
                # Opaque: as it is, with no encoder looked up that could have made it.
                stream, shape = target.add_stream_from_template(video, opaque=True), stream_format
                stream.time_base = video.time_base
            elif stream_format != shape:
                raise _mismatch(f"segment {number} was encoded in another way than the first")
            ticks, begin = _ticks(video), sum(counts[: number - 1])
            for packet in source.demux(video):
                if packet.dts is None or packet.pts is None:  # the end
                    continue
                packet.pts, packet.dts = packet.pts + begin * ticks, (copied - delay) * ticks
                packet.stream = stream
                target.mux(packet)
                copied += 1
                if copied % _PACKETS_PER_CHECK == 0:
                    check()


def _most_reordered(parts: Sequence[Path], counts: Sequence[int], check: Callable[[], None]) -> int:
    """Return how many frames decoding must run ahead of showing, so that one decoding clock serves all parts."""
    most = 0
    for number, (part, count) in enumerate(zip(parts, counts, strict=True), 1):
        check()
        with open_media(part) as source:
            video = source.streams.video[0]
            ticks = _ticks(video)
            display_times = [packet.pts // ticks for packet in source.demux(video) if packet.pts is not None]
        if len(display_times) != count:
            raise _mismatch(f"segment {number} has {len(display_times)} frames, not {count}")
        most = max(most, *(place - index for place, index in enumerate(display_times)))
    return most


def _ticks(video: Any) -> int:
    """Return how far apart frames are, in the stream's time base."""
    ticks = Fraction(1) / (video.average_rate * video.time_base)
    if ticks.denominator != 1:
        raise _mismatch(f"frames at {video.average_rate} a second do not fall on ticks of {video.time_base} s")
    return int(ticks)


def check_seams(path: Path, counts: Sequence[int], check: Callable[[], None] = lambda: None) -> None:
    """Every frame has its own time, none is missing, and each segment can be decoded without the one before.

    Raises:
        RetryableError: code ``encode_mismatch``.
    """
    times, keys = [], set()
    with open_media(path) as joined:
        video = joined.streams.video[0]
        ticks = _ticks(video)
        for packet in joined.demux(video):
            if packet.pts is None:
                continue
            times.append(packet.pts)
            if packet.is_keyframe:
                keys.add(packet.pts)
            if len(times) % _PACKETS_PER_CHECK == 0:
                check()
    if sorted(times) != [place * ticks for place in range(sum(counts))]:
        raise _mismatch(f"the joined video has {len(times)} frames, not {sum(counts)} at even times")
    begins = 0
    for number, count in enumerate(counts, 1):
        if begins * ticks not in keys:
            raise _mismatch(f"segment {number} does not begin with a keyframe")
        begins += count


def decoded_frames(path: Path, indices: Sequence[int], check: Callable[[], None] = lambda: None) -> list[Image.Image]:
    """Some frames of a video as pictures, in the order of ``indices``.

    Raises:
        RetryableError: code ``encode_mismatch``; it has no such frame.
    """
    needed, pictures = set(indices), {}
    with open_media(path) as video:
        for index, frame in enumerate(video.decode(video=0)):
            check()
            if index in needed:
                pictures[index] = frame.to_image()  # type: ignore[no-untyped-call]
            if len(pictures) == len(needed):
                break
    if len(pictures) != len(needed):
        raise _mismatch(f"{path} has no frame {min(needed - pictures.keys())}")
    return [pictures[index] for index in indices]


def _mismatch(message: str) -> RetryableError:
    return RetryableError(message, code="encode_mismatch")
