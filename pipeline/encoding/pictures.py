"""Makes a clip's still pictures from the raw frames: a poster and a strip."""

import errno
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from pipeline.errors import RetryableError

STRIP_FRAMES = 6
_TILE_WIDTH, _TILE_HEIGHT = 480, 180
"""Largest size of one frame in a strip, in pixels: six fit a page."""
_QUALITY = 90
"""Pillow's quality number for JPEG and WebP."""
_SMALL_QUALITY = 75


def read_frame(frames_path: Path, index: int, *, width: int, height: int) -> Image.Image:
    """One frame of a raw file (F × H × W × 3 uint8, RGB), counted from 0.

    Raises:
        RetryableError: code ``frames_corrupt``; the file ends before that frame does.
    """
    size = width * height * 3
    with frames_path.open("rb") as file:
        file.seek(index * size)
        data = file.read(size)
    if len(data) != size:
        raise RetryableError(f"{frames_path} ends before frame {index} does", code="frames_corrupt")
    return Image.frombytes("RGB", (width, height), data)


def make_poster(frames_path: Path, out_path: Path, *, width: int, height: int, num_frames: int) -> None:
    """Write the middle frame at full size; the format follows the suffix (.jpg, .webp or .png).

    Raises:
        RetryableError: code ``frames_corrupt`` or ``disk_full``.
    """
    save_poster(read_frame(frames_path, poster_index(num_frames), width=width, height=height), out_path)


def make_strip(frames_path: Path, out_path: Path, *, width: int, height: int, num_frames: int) -> None:
    """Write up to six frames side by side, the first and the last among them, made smaller where they are large.

    Raises:
        RetryableError: code ``frames_corrupt`` or ``disk_full``.
    """
    indices = strip_indices(num_frames)
    save_strip([read_frame(frames_path, index, width=width, height=height) for index in indices], out_path)


def save_poster(frame: Image.Image, out_path: Path) -> None:
    """Write a frame as it is. Raises RetryableError, code ``disk_full``."""
    _save(frame, out_path)


def save_strip(frames: Sequence[Image.Image], out_path: Path) -> None:
    """Write frames of one size side by side. Raises RetryableError, code ``disk_full``."""
    width, height = frames[0].size
    scale = min(1.0, _TILE_WIDTH / width, _TILE_HEIGHT / height)
    tile = (max(1, round(width * scale)), max(1, round(height * scale)))
    strip = Image.new("RGB", (tile[0] * len(frames), tile[1]))
    for place, frame in enumerate(frames):
        strip.paste(frame.resize(tile, Image.Resampling.HAMMING), (place * tile[0], 0))
    _save(strip, out_path)


def poster_index(num_frames: int) -> int:
    """Return which frame a poster shows: the middle one."""
    return num_frames // 2


def strip_indices(num_frames: int) -> list[int]:
    """Return which frames a strip shows: evenly spread, at most ``STRIP_FRAMES``, no frame twice."""
    count = min(STRIP_FRAMES, num_frames)
    return [round(place * (num_frames - 1) / max(1, count - 1)) for place in range(count)]


def small_poster(data: bytes, width: int) -> bytes:
    """Return a poster as WebP, at most that many pixels wide. Raises OSError where it is damaged."""
    with Image.open(io.BytesIO(data)) as picture:
        picture.draft("RGB", (width, width))
        small = picture.convert("RGB")
    small.thumbnail((width, width * 4))
    out = io.BytesIO()
    small.save(out, "WEBP", quality=_SMALL_QUALITY)
    return out.getvalue()


def _save(image: Image.Image, path: Path) -> None:
    try:
        image.save(path, quality=_QUALITY)
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RetryableError(f"{path}: {error.strerror}", code="disk_full") from error
        raise
