"""Encodes raw frames with FFmpeg, to a finished file or a clear error."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from pipeline.encoding.codecs import CODECS, codec_of
from pipeline.errors import RefusedError, RetryableError, StageError
from pipeline.media.opening import ffmpeg_program
from pipeline.rates import rational_fps
from pipeline.spec import EncodeOptions

AUDIO_BITRATE = "192k"
"""The bit rate of AAC, all channels together."""
AUDIO_OPTIONS = ("-c:a", "aac", "-b:a", AUDIO_BITRATE, "-flags:a", "+bitexact")
METADATA = "pipe:METADATA"
"""The placeholder in a command for the descriptor that ``run_ffmpeg`` opens for the tags."""
_SPECIAL, _ESCAPED = re.compile(r"([=;#\\\n\r])"), r"\\\1"
_POLL_S = 0.1
"""The interval at which ``check`` is called and the clock is read."""
_STDERR_KEPT = 8192
_LINES_SHOWN = 8
_DISK_FULL = ("No space left on device", "Disk quota exceeded", "File too large")
_NO_DEVICE = ("Cannot load libcuda", "Cannot load libnvidia-encode", "No capable devices found", "no NVENC capable")


@dataclass(frozen=True, slots=True)
class Sound:
    """Raw sound to go with the frames: 32-bit floats, little-endian, channels interleaved."""

    path: Path
    sample_rate: int
    channels: int


def encode(
    frames_path: Path,
    out_path: Path,
    *,
    width: int,
    height: int,
    num_frames: int,
    fps: float,
    options: EncodeOptions,
    metadata: Mapping[str, str],
    check: Callable[[], None],
    timeout_s: float,
    sound: Sound | None = None,
) -> None:
    """Encode raw frames (F × H × W × 3 uint8, RGB) into an MP4 whose bytes depend on nothing but the arguments.

    ``sound`` becomes a track of AAC; without it there is none.

    ``check`` is called about ten times a second; what it raises ends FFmpeg and is passed on. Whatever is raised, no
    file is left at ``out_path`` and no process behind.

    Raises:
        RetryableError: code ``frames_corrupt`` (fewer bytes than the frames need), ``encoder_failed``,
            ``encoder_timeout`` or ``disk_full``, with FFmpeg's last lines; ``handoff_lost`` (no frames file).
        RefusedError: code ``encoder_missing`` or ``encode_options``.
    """
    command = command_line(
        out_path, width=width, height=height, fps=fps, options=options, metadata=metadata, sound=sound
    )
    size = num_frames * height * width * 3
    run_ffmpeg(command, options.codec, frames_path, size, out_path, check, timeout_s, metadata=metadata)


def run_ffmpeg(
    command: list[str],
    codec: str,
    data: Path,
    size: int,
    out_path: Path,
    check: Callable[[], None],
    timeout_s: float,
    *,
    metadata: Mapping[str, str],
) -> None:
    """Run FFmpeg with a file of ``size`` bytes as its standard input; raises what ``encode`` raises.

    FFmpeg reads the file itself: nothing passes through this process. ``codec`` is what errors call it. ``metadata``
    is what ``METADATA`` of the command stands for: every user of the host can read a process's arguments, and the
    tags hold the prompt.
    """
    try:
        with data.open("rb", buffering=0) as source:
            actual_size = os.fstat(source.fileno()).st_size
            if actual_size != size:
                raise RetryableError(f"{data} holds {actual_size} bytes, not {size}", code="frames_corrupt")
            with _metadata_file(metadata) as tags, _Encoder(command, codec, source, tags) as encoder:
                encoder.wait(check, timeout_s)
                encoder.judge(source, size)
        if not out_path.is_file() or out_path.stat().st_size == 0:
            raise RetryableError(f"{codec} ended well but wrote nothing to {out_path}", code="encoder_failed")
    except BaseException as error:  # stopped, interrupted or failed: half a file must not stay
        with contextlib.suppress(OSError):
            out_path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _os_error(error, data) from error
        raise


@lru_cache(maxsize=1)
def ffmpeg_version() -> str:
    """The first line of ``ffmpeg -version``, without the copyright."""
    return _ask("-version").splitlines()[0].split(" Copyright")[0]


@lru_cache(maxsize=1)
def available_codecs() -> tuple[str, ...]:
    """Those of vgen's codecs that this FFmpeg was built with; NVENC may still lack a GPU."""
    listed = {words[1] for line in _ask("-encoders").splitlines() if len(words := line.split()) > 1}
    return tuple(name for name in CODECS if name in listed)


def _ask(flag: str) -> str:
    try:
        command = [ffmpeg_program(), "-hide_banner", flag]
        if flag == "-version":
            command.remove("-hide_banner")
        return subprocess.run(
            command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=60
        ).stdout.decode(errors="replace")
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        raise RetryableError(f"FFmpeg cannot be run: {error}", code="encoder_failed") from error


def command_line(
    out_path: Path,
    *,
    width: int,
    height: int,
    fps: float,
    options: EncodeOptions,
    metadata: Mapping[str, str],
    sound: Sound | None = None,
) -> list[str]:
    """FFmpeg's arguments for raw frames on its standard input; where there are tags, ``run_ffmpeg`` hands them over.

    Raises:
        RefusedError: as ``encode`` does.
    """
    codec = codec_of(options, width, height)
    if options.codec not in available_codecs():
        raise RefusedError(
            f"encode.codec: this FFmpeg has no {options.codec}; it has: {', '.join(available_codecs())}",
            code="encoder_missing",
        )
    rate = str(rational_fps(fps))
    return [
        *(ffmpeg_program(), "-hide_banner", "-nostats", "-loglevel", "error", "-y"),
        *("-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{width}x{height}", "-framerate", rate),
        *("-r", rate),  # once more: FFmpeg else takes 120000/1001 for 120, and drops frames to keep it
        *("-i", "pipe:0", *_sound_inputs(sound), *metadata_input(metadata)),
        *(*_sound_options(sound), "-filter_threads", "1", "-vf", codec.filters),
        *("-c:v", options.codec, *codec.arguments(options)),
        *metadata_options(metadata, number=1 if sound is None else 2),
        *("-movflags", "+faststart", "-f", "mp4", f"file:{out_path}"),
    ]


def metadata_input(metadata: Mapping[str, str]) -> list[str]:
    """The input of tags, if there are any."""
    return ["-f", "ffmetadata", "-i", METADATA] if metadata else []


def metadata_options(metadata: Mapping[str, str], number: int) -> list[str]:
    """The file has the tags of input ``number``, and nothing that differs from run to run."""
    return ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", str(number) if metadata else "-1"]


@contextlib.contextmanager
def _metadata_file(metadata: Mapping[str, str]) -> Iterator[int]:
    """A descriptor from which FFmpeg reads the tags (the format ffmetadata of its documentation, "Metadata")."""
    lines = [b";FFMETADATA1"]
    # FFmpeg's reader takes a newline after a backslash for escaped, even if that backslash is: such a value, and only
    # the title can be one, comes last, where no newline follows.
    for key, value in sorted(metadata.items(), key=lambda item: item[1].endswith("\\")):
        text = f"{key}={_SPECIAL.sub(_ESCAPED, value)}".replace("\0", " ")
        lines.append(text.encode("utf-8", "replace"))
    descriptor = os.memfd_create("vgen-metadata")
    try:
        os.write(descriptor, b"\n".join(lines))
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _sound_inputs(sound: Sound | None) -> list[str]:
    return [] if sound is None else audio_input(sound, f"file:{sound.path}")


def _sound_options(sound: Sound | None) -> list[str]:
    return ["-an"] if sound is None else [*AUDIO_OPTIONS, "-map", "0:v", "-map", "1:a"]


def audio_input(sound: Sound, source: str) -> list[str]:
    """Raw sound that FFmpeg reads from there; which streams are taken is still to be said."""
    layout = f"{sound.channels}c"
    return ["-f", "f32le", "-sample_rate", str(sound.sample_rate), "-ch_layout", layout, "-i", source]


class _Encoder:
    """A running FFmpeg that reads the file and never outlives the ``with``."""

    def __init__(self, command: list[str], codec: str, source: IO[bytes], metadata: int) -> None:
        self._codec = codec
        self._stderr = b""
        # A process group of its own: Ctrl-C is for us to hear and to answer.
        self._process = subprocess.Popen(
            [f"pipe:{metadata}" if argument == METADATA else argument for argument in command],
            pass_fds=(metadata,),
            stdin=source,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            bufsize=0,
            process_group=0,
        )

    def __enter__(self) -> _Encoder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def wait(self, check: Callable[[], None], timeout_s: float) -> None:
        """Return when it has closed its stderr; ``check`` is called about ten times a second."""
        stderr = self._process.stderr
        assert stderr is not None
        os.set_blocking(stderr.fileno(), False)
        deadline, next_check = time.monotonic() + timeout_s, 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(stderr, selectors.EVENT_READ)
            while not selector.select(_POLL_S) or self._drain(stderr):
                now = time.monotonic()
                if now >= next_check:
                    check()
                    next_check = now + _POLL_S
                if now > deadline:
                    raise self._error(f"took longer than {timeout_s:g} s", "encoder_timeout")

    def _drain(self, stderr: IO[bytes]) -> bool:
        with contextlib.suppress(BlockingIOError):
            data = os.read(stderr.fileno(), _STDERR_KEPT)
            self._stderr = (self._stderr + data)[-_STDERR_KEPT:]
            return bool(data)
        return True

    def judge(self, source: IO[bytes], size: int) -> None:
        """Raise unless it ended well and had read the source to its end."""
        # FFmpeg has closed its stderr, so it is ending; one that does not is as good as hung.
        try:
            status = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            raise self._error("closed its output but did not end", "encoder_timeout") from None
        if status != 0:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            raise self._error(how, "encoder_failed")
        if unread := size - os.lseek(source.fileno(), 0, os.SEEK_CUR):  # FFmpeg's place in the file is ours too
            raise self._error(f"stopped reading {unread} bytes before the end", "encoder_failed")

    def _error(self, what: str, code: str) -> StageError:
        text = self._stderr.decode("utf-8", "replace")
        lines = " | ".join(text.strip().splitlines()[-_LINES_SHOWN:])
        message = f"{self._codec} {what}" + (f": {lines}" if lines else "")
        if self._process.returncode == -signal.SIGXFSZ or any(mark in text for mark in _DISK_FULL):
            return RetryableError(message, code="disk_full")
        if any(mark in text for mark in _NO_DEVICE):
            alternatives = ", ".join(name for name in available_codecs() if not name.endswith("_nvenc"))
            return RefusedError(f"{message}; without a GPU there are: {alternatives}", code="encoder_missing")
        return RetryableError(message, code=code)


def _os_error(error: OSError, frames_path: Path) -> RetryableError:
    if isinstance(error, FileNotFoundError) and error.filename == str(frames_path):
        return RetryableError(f"the frames at {frames_path} are gone", code="handoff_lost")
    code = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "encoder_failed"
    return RetryableError(f"the encoder could not run: {error}", code=code)
