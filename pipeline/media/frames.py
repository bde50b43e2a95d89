"""Decodes frames as players show them: upright, transparency on white, one size throughout."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.media.opening import MAX_FRAME_PIXELS, UnreadableMediaError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Pixels = NDArray[np.uint8]
_UPRIGHT = (1, 0, 0, 1)
_TURNS = {(0, -1, 1, 0): 1, (-1, 0, 0, -1): 2, (0, 1, -1, 0): 3}
"""Quarter turns counterclockwise by a display matrix's signs (a, b, c, d): (x, y) goes to (ax + cy, bx + dy)."""
_MIRRORED = {(-1, 0, 0, 1): 0, (0, 1, 1, 0): 1, (1, 0, 0, -1): 2, (0, -1, -1, 0): 3}
"""The same of a picture that is mirrored left to right first."""
_MATRIX = struct.Struct("=9i")
_HDR_TRANSFERS = {16: "PQ (SMPTE ST 2084)", 18: "HLG (ARIB STD-B67)"}
"""HDR transfers by FFmpeg's AVColorTransferCharacteristic."""
_WIDE_PRIMARIES = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
"""Wide primaries by FFmpeg's AVColorPrimaries."""


def video_stream(container: InputContainer) -> VideoStream:
    """The stream that a player shows: no cover picture. Its decoder refuses frames of too many pixels.

    Raises:
        UnreadableMediaError: there is none, or no decoder for it.
    """
    stream: VideoStream | None = container.streams.best("video")  # type: ignore[assignment]
    if stream is None:
        raise UnreadableMediaError("it has no video stream")
    if stream.codec_context is None:  # PyAV's types do not know of it
        raise UnreadableMediaError("its video stream is of a codec that cannot be decoded here")
    stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    return stream


def sound_frames(frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
    """The frames as they come, each looked at before anything is made of it.

    Raises:
        UnreadableMediaError: a frame is corrupt, is larger than ``MAX_FRAME_PIXELS``, or has another size than the
            first.
    """
    size = None
    for number, frame in enumerate(frames):
        if frame.is_corrupt:
            raise UnreadableMediaError(f"frame {number} is corrupt")
        if frame.width * frame.height > MAX_FRAME_PIXELS:
            raise UnreadableMediaError(f"frame {number} has more than {MAX_FRAME_PIXELS} pixels")
        if size not in (None, (frame.width, frame.height)):
            raise UnreadableMediaError(f"frame {number} has another size than the first")
        size = (frame.width, frame.height)
        yield frame


def shown_pixels(frame: VideoFrame) -> Pixels:
    """The frame upright, as uint8 RGB (height, width, 3).

    Raises:
        UnreadableMediaError: the video is to be turned by an angle that is not a quarter turn.
    """
    turns, mirrored = _orientation(frame)
    pixels: Pixels = _on_white(frame) if _has_alpha(frame) else frame.to_ndarray(format="rgb24")  # type: ignore[assignment]
    if mirrored:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns or mirrored else pixels


def shown_aspect(stream: VideoStream, frame: VideoFrame) -> Fraction:
    """Width by height of one of the pixels of ``shown_pixels``: 1 where they are square, or nothing is known."""
    ratio = stream.sample_aspect_ratio
    if not ratio or ratio <= 0:
        return Fraction(1)
    return 1 / ratio if _orientation(frame)[0] % 2 else Fraction(ratio)


def hdr_of(frame: VideoFrame) -> str | None:
    """The transfer function of a frame of high dynamic range, None for others."""
    return _HDR_TRANSFERS.get(int(frame.color_trc))


def losses(frame: VideoFrame) -> Iterator[str]:
    """Yield what the frame's RGB pixels do not keep, each as a sentence's end."""
    if (name := _WIDE_PRIMARIES.get(int(frame.color_primaries))) is not None:
        yield f"has the primaries of {name}: its colours are taken as BT.709, and look paler"
    if frame.interlaced_frame:
        yield "is interlaced: its fields are not separated (FFmpeg's filter bwdif does it)"
    if _has_alpha(frame) and frame.to_ndarray(format="rgba")[..., 3].min() < 255:
        yield "is transparent in parts: they are shown on white"


def _orientation(frame: VideoFrame) -> tuple[int, bool]:
    """Quarter turns counterclockwise, and whether the picture is mirrored left to right before."""
    side_data: Any = frame.side_data
    data = side_data.get("DISPLAYMATRIX")
    if data is None:
        return 0, False
    a, b, _, c, d, *_ = _MATRIX.unpack(bytes(data)[: _MATRIX.size])
    largest = max(map(abs, (a, b, c, d)))
    # What is small beside the rest comes of rounding; the sizes of the rest are in the pixels' aspect already.
    signs = tuple((value > 0) - (value < 0) if abs(value) * 100 > largest else 0 for value in (a, b, c, d))
    if signs == _UPRIGHT or not largest:  # all zeros say nothing, and players show the video upright
        return 0, False
    if signs in _TURNS:
        return _TURNS[signs], False
    if signs in _MIRRORED:
        return _MIRRORED[signs], True
    raise UnreadableMediaError(f"it is to be turned by {frame.rotation} degrees, and only quarter turns are shown")


def _has_alpha(frame: VideoFrame) -> bool:
    return any(component.is_alpha for component in frame.format.components) or frame.format.name == "pal8"


def _on_white(frame: VideoFrame) -> Pixels:
    rgba = frame.to_ndarray(format="rgba")
    alpha = rgba[..., 3:].astype(np.uint16)
    mixed = rgba[..., :3] * alpha + 255 * (255 - alpha)
    white: Pixels = ((mixed + 127) // 255).astype(np.uint8)
    return white
