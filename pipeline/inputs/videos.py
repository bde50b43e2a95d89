"""Reads input videos for workers; submit checks videos with the same code."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pipeline.media.opening import INPUT_FORMATS, MAX_FRAME_PIXELS, UnreadableMediaError, open_media

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from pipeline.media.frames import Pixels

MAX_VIDEO_BYTES = 256 * 1024 * 1024
MAX_VIDEO_FRAMES = 3000
"""More are not looked at: a clip takes a few hundred, and looking means decoding."""
MAX_VIDEO_PIXELS = MAX_VIDEO_FRAMES * 4096 * 2304
"""The pixels of all frames together: the largest number of 4K frames takes minutes to decode."""
MAX_ASPECT = 16
"""Pixels that are so much wider than high, or the reverse, are a mistake of the file."""
VIDEO_TYPES = {"mov,mp4,m4a,3gp,3g2,mj2": "video/mp4", "matroska,webm": "video/x-matroska", "avi": "video/x-msvideo"}
"""Media type by FFmpeg's name of the demuxer."""
_UNEVEN = 0.25
"""A frame that stays longer or shorter than most by this share is one of a variable rate; WebM rounds to a
millisecond."""


@dataclass(frozen=True, slots=True)
class CheckedVideo:
    """A video as decoded; ``notes`` name the properties that a clip will not have."""

    media_type: str
    num_frames: int
    notes: tuple[str, ...] = ()


def check_video(source: Path | BinaryIO, name: str) -> CheckedVideo:
    """Decode every frame: a broken file must not wait for a GPU to be found out.

    Raises:
        ValueError: the message has the name and the rule.
    """
    from pipeline.media.frames import losses, shown_pixels, video_stream  # noqa: PLC0415 - numpy, and most files name no video

    count, notes, times, media_type = 0, dict[str, None](), list[Fraction](), None
    try:
        with open_media(source, formats=INPUT_FORMATS) as container:
            stream = video_stream(container)
            media_type = VIDEO_TYPES[container.format.name]
            for frame, _ in _frames(container, stream):
                if not count:
                    shown_pixels(frame)
                count += 1
                if count > MAX_VIDEO_FRAMES or count * frame.width * frame.height > MAX_VIDEO_PIXELS:
                    raise ValueError(
                        f"{name!r} has more than {MAX_VIDEO_FRAMES} frames, or {MAX_VIDEO_PIXELS} pixels in all; cut it"
                    )
                notes.update(dict.fromkeys(losses(frame)))
                if frame.pts is not None and frame.time_base:
                    times.append(frame.pts * frame.time_base)
    except UnreadableMediaError as error:
        problem = f"is broken at frame {count}" if count else "cannot be used"
        if media_type is None:
            problem = "is not an MP4, QuickTime, Matroska, WebM or AVI file with a video stream"
        raise ValueError(f"{name!r} {problem}: {error}") from None
    if not count or media_type is None:
        raise ValueError(f"{name!r} holds no frame")
    if _uneven(times):
        notes["has a variable frame rate: its frames are taken one by one, whatever their times"] = None
    return CheckedVideo(media_type, count, tuple(notes))


def read_video(source: Path | BinaryIO) -> Iterator[tuple[Pixels, Fraction]]:
    """The frames as a player shows them, uint8 RGB (height, width, 3), and the width of their pixels by the height.

    Raises:
        UnreadableMediaError: at the frame where something is wrong.
    """
    from pipeline.media.frames import shown_pixels, video_stream  # noqa: PLC0415

    with open_media(source, formats=INPUT_FORMATS) as container:
        for frame, aspect in _frames(container, video_stream(container)):
            yield shown_pixels(frame), aspect


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[tuple[VideoFrame, Fraction]]:
    """The frames under every rule of input videos, and their pixels' aspect as shown."""
    from pipeline.media.frames import hdr_of, shown_aspect, sound_frames  # noqa: PLC0415

    if stream.codec_context.width * stream.codec_context.height > MAX_FRAME_PIXELS:
        raise UnreadableMediaError(f"it has frames of more than {MAX_FRAME_PIXELS} pixels")
    for frame in sound_frames(container.decode(stream)):
        if (transfer := hdr_of(frame)) is not None:
            raise UnreadableMediaError(
                f"it is HDR, {transfer}, and would look flat and grey: make an SDR copy of it first, "
                "for example with FFmpeg's filters zscale and tonemap"
            )
        aspect = shown_aspect(stream, frame)
        if not 1 / MAX_ASPECT <= aspect <= MAX_ASPECT:
            raise UnreadableMediaError(f"its pixels are declared {aspect} times as wide as high")
        yield frame, aspect


def _uneven(times: Sequence[Fraction]) -> bool:
    """Return whether frames stay for different times; in the order in which they are shown."""
    ordered = sorted(times)
    stays = [float(later - earlier) for earlier, later in itertools.pairwise(ordered)]
    if len(stays) < 2:
        return False
    usual = statistics.median(stays)
    return any(abs(stay - usual) > max(_UNEVEN * usual, 0.0015) for stay in stays)
