"""The media of one segment of the line: frames as they are written on this host, or the published clip."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from pipeline.encoding.live import Chunk, ChunkKind, LiveEncoder, Track, encoder_for
from pipeline.encoding.live.chunks import CHANNELS
from pipeline.encoding.live.following import POLL_S, follow
from pipeline.errors import VgenError
from pipeline.handoff import id_of
from pipeline.settings import Settings
from pipeline.wiring import make_storage
from server.stream.source import Media, MediaBegin, MediaEnd, Opening, SourceError
from service.views.sessions import SessionView, StreamSegmentView
from tasks.live_chunks import END, INIT, Entry, LiveChunks, stream_id, stream_of

logger = logging.getLogger(__name__)

_AWAIT_S = POLL_S * 10
"""How often it is looked whether there is anything yet."""
_READ_S, _QUIET_S = 0.5, 2.0


class LineMedia:
    """Encodes a segment in a thread, and hands out what comes of it.

    The thread reads the frames of the attempt that the rows name in the hand-off folder, as they are counted there; an
    attempt that takes over has equal frames, so that it is read on from the same one. Where the frames are gone, or
    that attempt is another host's, the published clip is decoded. A file of an attempt that was lost stays unread: it
    has its full size, and nothing behind what was counted.
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
            if self._relayed():
                return
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

    def _relayed(self) -> bool:
        """Hand out what the worker's own encoder sends; False where there is none, or what it sent has a gap."""
        if self._settings.solo or self._attempt() is not None:
            return False
        chunks = LiveChunks.of(self._settings)
        if chunks is None:
            return False
        stream = stream_of(self._opening.session_id, self._view.gpu_type)
        try:
            return self._relay(chunks, stream)
        except redis.RedisError as error:
            logger.warning("live media are away", extra={"reason": str(error)})
            return False
        finally:
            chunks.close()

    def _relay(self, chunks: LiveChunks, stream: str) -> bool:
        index, number = self._segment.segment, 0
        quiet_since = time.monotonic()
        while not self._stop.is_set():
            for entry in chunks.read(stream, index, number, wait_s=_READ_S):
                if entry.segment != index or entry.number not in (number + 1, END):
                    return False  # capped, or lost with Redis
                quiet_since = time.monotonic()
                if entry.number == END:
                    if number - INIT != int(entry.fields["chunks"]):
                        return False
                    self._put(MediaEnd(number - INIT, int(entry.fields["frames"]) / self._view.fps * 1000))
                    return True
                if entry.number == INIT and entry.fields["mode"].decode() != self._opening.mode:
                    return False  # the client that the worker was told of had wanted the other
                number = entry.number
                self._hand_on(stream_id(stream, index), entry)
            if self._segment.video_key is not None and time.monotonic() - quiet_since > _QUIET_S:
                return False  # its encoder died, and the clip is there
        return True

    def _hand_on(self, stream_id_: str, entry: Entry) -> None:
        if entry.number == INIT:
            mime = entry.fields["mime"].decode()
            self._put(MediaBegin(stream_id_, mime, self._opening.mode, entry.fields["data"]))
        else:
            self._put(Media(entry.number - INIT - 1, entry.fields["data"]))

    def _encoder(self, num_frames: int) -> LiveEncoder:
        track = Track(self._view.width, self._view.height, self._view.fps, num_frames)
        return encoder_for(self._opening.mode, track, on_chunk=self._take, silent=self._opening.silent_audio)

    def _num_frames(self) -> int | None:
        """Wait until it is known how many frames there will be; None once it is not wanted any more."""
        while not self._stop.is_set():
            if (path := self._attempt()) is not None:
                with contextlib.suppress(OSError):
                    if size := path.stat().st_size:
                        return size // self._frame_bytes
            if self._segment.num_frames is not None:
                return self._segment.num_frames
            self._stop.wait(_AWAIT_S)
        return None

    @property
    def _frame_bytes(self) -> int:
        return self._view.width * self._view.height * CHANNELS

    def _attempt(self) -> Path | None:
        """The file of the frames: of full size from the beginning, and empty once they are encoded.

        It is that of the attempt which is made or was the last to be, if this host's workers have it.
        """
        segment, folder = self._segment, self._settings.effective_handoff_dir
        if segment.frames_file is None or (segment.generated and segment.handoff_id != id_of(folder)):
            return None
        path = folder / segment.frames_file
        with contextlib.suppress(OSError):
            if path.stat().st_size:
                return path
        return None

    def _frames(self, count: int) -> Iterator[bytes]:
        """Yield each frame as soon as it can be read."""
        number = 0
        while number < count and not self._stop.is_set():
            path = self._attempt()
            if path is not None:
                for frame in self._written(path, number, count):
                    yield frame
                    number += 1
            elif self._segment.video_key is not None:
                yield from self._published(number, count)
                return
            else:
                self._stop.wait(_AWAIT_S)

    def _written(self, path: Path, number: int, count: int) -> Iterator[bytes]:
        """Yield the frames from ``number`` on, until the last one, or this attempt's end."""
        yield from follow(
            path,
            self._frame_bytes,
            number,
            count,
            wait=self._stop.wait,
            complete=lambda: self._segment.generated and self._attempt() == path,
            superseded=lambda: self._attempt() != path,
        )

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
