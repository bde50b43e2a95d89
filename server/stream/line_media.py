"""The media of one segment of the line: frames as they are written on this host, or the published clip."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.encoding.live import Chunk, ChunkKind, LiveEncoder, Track, encoder_for
from pipeline.errors import VgenError
from pipeline.handoff import frames_written
from pipeline.settings import Settings
from pipeline.wiring import make_storage
from server.stream.source import Media, MediaBegin, MediaEnd, Opening, SourceError
from service.views.sessions import SessionView, StreamSegmentView

logger = logging.getLogger(__name__)

_POLL_S = 0.005
"""How often the count of frames is read while they are written; before that, ten times as long."""
_CHANNELS = 3


class LineMedia:
    """Encodes a segment in a thread, and hands out what comes of it.

    The thread reads the newest attempt's frames in the hand-off folder as they are counted there; an attempt that
    takes over has equal frames, so that it is read on from the same one. Where the frames are gone, or were never on
    this host, the published clip is decoded.
    """

    def __init__(self, settings: Settings, view: SessionView, index: int, opening: Opening) -> None:
        self._settings = settings
        self._view = view
        self._opening = opening
        self._segment = view.segments[index]
        self._expected = view.num_frames if index == 0 else view.later_frames
        self._stream_id = secrets.token_hex(16)
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[MediaBegin | Media | MediaEnd | BaseException] = asyncio.Queue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live-media", daemon=True)
        self._thread.start()
        self.complete = False
        """Whether all media were handed out."""

    def tell(self, segment: StreamSegmentView) -> None:
        """Say what the rows say now."""
        self._segment = segment

    async def next(self, timeout_s: float) -> MediaBegin | Media | MediaEnd | None:
        """Return what comes next; None: nothing came in that time. Raises SourceError."""
        try:
            async with asyncio.timeout(timeout_s):
                event = await self._events.get()
        except TimeoutError:
            return None
        if isinstance(event, BaseException):
            raise SourceError("worker_failed", f"the pictures of segment {self._segment.segment}: {event}") from event
        self.complete = isinstance(event, MediaEnd)
        return event

    async def aclose(self) -> None:
        self._stop.set()
        await asyncio.to_thread(self._thread.join)

    def _put(self, event: MediaBegin | Media | MediaEnd | BaseException) -> None:
        with contextlib.suppress(RuntimeError):  # the server has ended
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def _take(self, chunk: Chunk) -> None:
        if chunk.kind is ChunkKind.INIT:
            self._put(MediaBegin(self._stream_id, chunk.mime, self._opening.mode, chunk.data))
        else:
            self._put(Media(chunk.index, chunk.data))

    def _run(self) -> None:
        encoder: LiveEncoder | None = None
        try:
            # FFmpeg takes longer to start than a frame takes to be encoded: it starts before there are any.
            encoder, count = self._encoder(self._expected), self._expected
            known = self._num_frames()
            if known is not None and known != count:
                encoder.abort()
                encoder, count = self._encoder(known), known
            for frame in self._frames(count):
                encoder.write(frame)
            if not self._stop.is_set():
                chunks = encoder.finish()
                self._put(MediaEnd(chunks, count / self._view.fps * 1000))
        except Exception as error:
            if not self._stop.is_set():
                if not isinstance(error, VgenError):
                    logger.exception("live media failed", extra={"job_id": self._segment.job_id})
                self._put(error)
        finally:
            if encoder is not None:
                encoder.abort()

    def _encoder(self, num_frames: int) -> LiveEncoder:
        track = Track(self._view.width, self._view.height, self._view.fps, num_frames)
        return encoder_for(self._opening.mode, track, on_chunk=self._take, silent=self._opening.silent_audio)

    def _num_frames(self) -> int | None:
        """Wait until it is known how many frames there will be; None once it is not wanted any more."""
        while not self._stop.is_set():
            if (path := self._newest_attempt()) is not None:
                with contextlib.suppress(OSError):
                    if size := path.stat().st_size:
                        return size // self._frame_bytes
            if self._segment.num_frames is not None:
                return self._segment.num_frames
            self._stop.wait(_POLL_S * 10)
        return None

    @property
    def _frame_bytes(self) -> int:
        return self._view.width * self._view.height * _CHANNELS

    def _newest_attempt(self) -> Path | None:
        """The file of the newest attempt's frames: of full size from the beginning, and empty once they are encoded."""
        folder, prefix = self._settings.effective_handoff_dir, f"{self._segment.job_id}."
        found: list[tuple[tuple[int, ...], Path]] = []
        with contextlib.suppress(OSError, ValueError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(prefix) and entry.name.endswith(".rgb") and entry.stat().st_size:
                    numbers = tuple(int(part) for part in entry.name.removeprefix(prefix).split(".")[:-1])
                    found.append((numbers, Path(entry.path)))
        return max(found)[1] if found else None

    def _frames(self, count: int) -> Iterator[bytes]:
        """Yield each frame as soon as it can be read."""
        number = 0
        while number < count and not self._stop.is_set():
            path = self._newest_attempt()
            if path is not None:
                for frame in self._written(path, number, count):
                    yield frame
                    number += 1
            elif self._segment.video_key is not None:
                yield from self._published(number, count)
                return
            else:
                self._stop.wait(_POLL_S * 10)

    def _written(self, path: Path, number: int, count: int) -> Iterator[bytes]:
        """Yield the frames from ``number`` on, until the last one, or this attempt's end."""
        size, looked = self._frame_bytes, time.monotonic()
        try:
            with path.open("rb", buffering=0) as file:
                while number < count and not self._stop.is_set():
                    if self._segment.generated or number < frames_written(path):
                        frame = os.pread(file.fileno(), size, number * size)
                        if len(frame) < size:  # they are encoded, and their room was given back
                            return
                        yield frame
                        number += 1
                    elif time.monotonic() - looked > _POLL_S * 20:
                        looked = time.monotonic()
                        if self._newest_attempt() != path:
                            return
                    else:
                        self._stop.wait(_POLL_S)
        except FileNotFoundError:
            return

    def _published(self, number: int, count: int) -> Iterator[bytes]:
        assert self._segment.video_key is not None
        with tempfile.TemporaryDirectory(prefix="vgen-stream-") as folder:
            path = Path(folder) / "clip.mp4"
            make_storage(self._settings).download(self._segment.video_key, path)
            yield from _decoded(path, number, count)


def _decoded(path: Path, first: int, count: int) -> Iterator[bytes]:
    from pipeline.media.opening import open_media  # noqa: PLC0415 - PyAV, which most sessions never need

    with open_media(path) as container:
        for number, shown in enumerate(container.decode(video=0)):
            if number >= count:
                return
            if number >= first:
                yield shown.to_ndarray(format="rgb24").tobytes()
