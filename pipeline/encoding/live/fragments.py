"""Makes fragmented MP4 live: raw frames into FFmpeg's standard input, fragments from its standard output.

A fragment lasts a quarter of a second and a group of pictures at most a second, so that a player begins before the
last frame of its segment is encoded. Each segment has an initialisation of its own, and its times begin at 0: that is
what a MediaSource in the mode ``sequence`` takes.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import threading
from fractions import Fraction

from pipeline.encoding.ffmpeg import Sound, audio_input
from pipeline.encoding.live.boxes import FragmentSplitter, Mp4Error, mime_of
from pipeline.encoding.live.chunks import Chunk, ChunkKind, OnChunk, Track
from pipeline.errors import FatalError, RetryableError
from pipeline.media.opening import ffmpeg_program
from pipeline.rates import rational_fps

FRAGMENT_S = 0.25
_GROUP_S = 1
"""Longest time between two pictures that stand alone."""
_CRF = "23"
_SOUND_RATE, _SOUND_BITRATE = 48_000, "128k"
_AAC_SAMPLES = 1024
"""Samples of a block of AAC (ISO/IEC 14496-3)."""
_READ_BYTES = 64 * 1024
_END_S = 30.0
"""FFmpeg has so long for what it still holds when its input ends: that is less than a second of pictures."""
_STDERR_KEPT = 4096
_FILTERS = (
    # The durable file is converted with more care (pipeline.encoding.codecs); here time counts.
    "scale=w=trunc(iw/2)*2:h=trunc(ih/2)*2:in_range=pc:out_range=tv:out_color_matrix=bt709:flags=bilinear,"
    "format=yuv420p,setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709"
)


class FragmentedMp4Encoder:
    """An H.264 encoder without delay, and a muxer of fragments.

    ``sound`` becomes a track of AAC, from its sample ``sound_begins`` on; with ``silent`` there is one that holds
    silence where there is no sound. Both end with the pictures. ``on_chunk`` is called in a thread of the encoder's.
    """

    def __init__(
        self,
        track: Track,
        *,
        on_chunk: OnChunk,
        sound: Sound | None = None,
        sound_begins: int = 0,
        silent: bool = False,
    ) -> None:
        self._track = track
        self._on_chunk = on_chunk
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._chunks = 0
        self._failure: BaseException | None = None
        try:
            self._process = subprocess.Popen(
                command_line(track, sound=sound, sound_begins=sound_begins, silent=silent),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                bufsize=0,
                process_group=0,  # Ctrl-C is for us to hear and to answer
            )
        except OSError as error:
            self._stderr.close()
            raise RetryableError(f"FFmpeg cannot be run: {error}", code="encoder_failed") from error
        self._reader = threading.Thread(target=self._read, name="live-encoder", daemon=True)
        self._reader.start()

    def write(self, frame: bytes | memoryview) -> None:
        if len(frame) != self._track.frame_bytes:
            raise FatalError(
                f"a frame has {len(frame)} bytes; {self._track.width}×{self._track.height} RGB pixels have "
                f"{self._track.frame_bytes}",
                code="frames_mismatch",
            )
        assert self._process.stdin is not None
        try:
            rest = memoryview(frame)
            while rest:
                rest = rest[self._process.stdin.write(rest) :]
        except (OSError, ValueError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
            error = self._error("ended before the last frame")
            self.abort()
            raise error from None

    def finish(self) -> int:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._reader.join(_END_S)
        if self._reader.is_alive():
            self.abort()
            raise RetryableError(f"the live encoder did not end within {_END_S:g} s", code="encoder_timeout")
        try:
            status = self._process.wait(_END_S)
            if status != 0 or self._failure is not None:
                raise self._error(f"ended with status {status}" if status else "was not understood")
        finally:
            self.abort()
        return self._chunks

    def abort(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._stderr):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        if self._reader is not threading.current_thread():
            self._reader.join(_END_S)

    def _read(self) -> None:
        stdout, splitter = self._process.stdout, FragmentSplitter()
        assert stdout is not None
        try:
            while data := stdout.read(_READ_BYTES):
                for name, whole in splitter.feed(data):
                    self._on_chunk(self._chunk(name, whole))
        except Mp4Error as error:
            self._failure = error
            self._process.kill()
        except Exception as error:  # noqa: BLE001 - of whoever takes the chunks: `finish` tells it
            self._failure = error
            self._process.kill()
        finally:
            stdout.close()

    def _chunk(self, name: bytes, whole: bytes) -> Chunk:
        if name == b"moov":
            return Chunk(ChunkKind.INIT, -1, whole, mime_of(whole))
        self._chunks += 1
        return Chunk(ChunkKind.MEDIA, self._chunks - 1, whole)

    def _error(self, what: str) -> RetryableError:
        text = ""
        if not self._stderr.closed:
            self._stderr.seek(0)
            text = self._stderr.read()[-_STDERR_KEPT:].decode("utf-8", "replace").strip().replace("\n", " | ")
        reason = f": {self._failure}" if self._failure is not None else ""
        return RetryableError(f"the live encoder {what}{reason}{f': {text}' if text else ''}", code="encoder_failed")


def command_line(track: Track, *, sound: Sound | None, sound_begins: int = 0, silent: bool) -> list[str]:
    """Return FFmpeg's arguments: raw frames on its standard input, fragments on its standard output."""
    rate = rational_fps(track.fps)
    return [
        *(ffmpeg_program(), "-hide_banner", "-nostats", "-loglevel", "error"),
        *("-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{track.width}x{track.height}"),
        *("-framerate", str(rate), "-r", str(rate), "-i", "pipe:0"),
        *_sound_arguments(sound, sound_begins, silent=silent, seconds=Fraction(track.num_frames) / rate),
        *("-filter_threads", "1", "-vf", _FILTERS),
        *("-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-crf", _CRF, "-threads", "1"),
        *("-g", str(max(1, int(rate * _GROUP_S))), "-sc_threshold", "0"),
        *("-movflags", "+empty_moov+default_base_moof+skip_trailer", "-frag_duration", str(round(FRAGMENT_S * 1e6))),
        *("-flush_packets", "1", "-fflags", "+bitexact", "-map_metadata", "-1", "-f", "mp4", "pipe:1"),
    ]


def _sound_arguments(sound: Sound | None, begins: int, *, silent: bool, seconds: Fraction) -> list[str]:
    if sound is None and not silent:
        return ["-an", "-map", "0:v"]
    if sound is None:
        source = ["-f", "lavfi", "-i", f"anullsrc=r={_SOUND_RATE}:cl=stereo"]
        # The encoder puts a block of its own before the first. Where that began before the pictures, the container
        # would move these: silence leaves room for the block, and ends with the pictures.
        first = _AAC_SAMPLES
        seconds = max(seconds - Fraction(first, _SOUND_RATE), Fraction(1, _SOUND_RATE))
    else:
        source, first = audio_input(sound, f"file:{sound.path}"), 0
    filters = f"atrim=start_sample={begins},asetpts=N/SR/TB,apad,atrim=end={float(seconds):.6f}"
    filters += f",asetpts=PTS+{first}/SR/TB" if first else ""
    options = ["-map", "0:v", "-map", "1:a", "-af", filters, "-ar", str(_SOUND_RATE), "-ac", "2"]
    return [*source, *options, "-c:a", "aac", "-b:a", _SOUND_BITRATE]
