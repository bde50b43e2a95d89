"""Opens videos safely: by content, from an open file, without following anything that the file refers to.

FFmpeg takes a name such as ``http:…``, ``concat:…`` or ``%d.png`` for an address or a pattern, and a playlist that is
named ``clip.mp4`` for what it lists. So it gets no name here but an open regular file, may open nothing else, and knows
only formats that hold their pictures themselves. Loads PyAV when the first video is opened.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pipeline.errors import InputError
from pipeline.files.regular import open_regular_file, reason

if TYPE_CHECKING:
    from av.container import InputContainer

INPUT_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
"""FFmpeg's names of the formats of input videos and of what vgen writes."""
CLIP_FORMATS = ",".join(
    (
        INPUT_FORMATS,
        *("gif", "apng", "webp", "mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "vvc", "obu", "av1", "ivf"),
        *("mjpeg", "flv", "ogg", "asf", "mxf", "nut", "dv", "rm", "gxf", "wtv", "yuv4mpegpipe"),
        *("png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe"),
    )
)
"""Formats of scored clips: every common container, and single pictures. None of them leads to another file; the
playlists (concat, hls, dash), image patterns (image2), devices and sdp are left out."""
MAX_FRAME_PIXELS = 64_000_000
"""Larger ones are refused before memory is taken for them; ``video_frames.video_stream`` has the decoder do it."""
_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BUFFER_BYTES = 256 * 1024


class UnreadableMediaError(Exception):
    """The file cannot be opened or decoded; the message says why, without the file's name."""


@contextlib.contextmanager
def open_media(source: Path | BinaryIO, *, formats: str = CLIP_FORMATS) -> Iterator[InputContainer]:
    """A video opened for reading; ``source`` is its path, or the file itself, open at its beginning.

    Raises:
        UnreadableMediaError: there is no such file, it is not a regular one, or it is in none of the ``formats``. Also
            for what FFmpeg raises while the video is read.
    """
    from av.error import FFmpegError  # noqa: PLC0415 - slow to load, and most files name no video

    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_opened(source)) if isinstance(source, Path) else source
        try:
            container = stack.enter_context(_container(file, formats))
        except FFmpegError as error:
            why = "it is in no format that is read here, or damaged" if error.errno == errno.EINVAL else error.strerror
            raise UnreadableMediaError(f"it cannot be decoded: {why or error}") from error
        try:
            yield container
        except FFmpegError as error:
            if error.errno in _WRITE_ERRORS:  # of what is written while the video is read
                raise
            raise UnreadableMediaError(f"it cannot be decoded: {error.strerror or error}") from error


def ffmpeg_program() -> str:
    """The path of the FFmpeg program: the package's own, or the one that ``IMAGEIO_FFMPEG_EXE`` names."""
    import imageio_ffmpeg  # noqa: PLC0415 - only what makes or scores clips has it

    return str(imageio_ffmpeg.get_ffmpeg_exe())


def ffmpeg_input(path: Path, *, formats: str = CLIP_FORMATS) -> list[str]:
    """The arguments for the FFmpeg program to read a file under the same rules."""
    return ["-protocol_whitelist", "file", "-format_whitelist", formats, "-i", f"file:{path}"]


def _opened(path: Path) -> BinaryIO:
    try:
        return open_regular_file(path, what="it")
    except InputError as error:
        raise UnreadableMediaError(error.problems[0].message) from error


def _container(file: BinaryIO, formats: str) -> InputContainer:
    import av  # noqa: PLC0415

    options = {"format_whitelist": formats, "protocol_whitelist": "none", "max_pixels": str(MAX_FRAME_PIXELS)}
    source: Any = _Bytes(file)
    # Tags in another encoding than UTF-8 are no reason to refuse a video.
    container: InputContainer = av.open(
        source, "r", options=options, metadata_errors="replace", buffer_size=_BUFFER_BYTES
    )
    return container


class _Bytes:
    """A file without its name, from which FFmpeg would guess a format."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek: Any = file.seek
        self.tell: Any = file.tell

    def read(self, size: int) -> bytes:
        """Raises UnreadableMediaError where the disk, or what stands for it, gives no bytes."""
        try:
            return self._file.read(size)
        except OSError as error:
            raise UnreadableMediaError(f"it cannot be read: {reason(error)}") from error
