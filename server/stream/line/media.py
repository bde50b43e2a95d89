"""The media of one segment of the line: from wherever they can be had soonest, and from there only while that lasts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

from pipeline.encoding.live import Chunk, ChunkKind, FrameEncoding, Track
from pipeline.encoding.live.chunks import CHANNELS
from pipeline.encoding.live.following import POLL_S
from pipeline.errors import NotFoundError, RetryableError, VgenError
from pipeline.handoff import id_of
from pipeline.settings import Settings
from server.stream.line.pictures import Frames, PublishedFrames, WrittenFrames
from server.stream.line.relay import QUIET_S, Relay, Relayed
from server.stream.source import Media, MediaBegin, MediaEnd, Opening, SourceError
from service.views.sessions import SessionView, StreamSegmentView
from tasks.live_chunks import LiveChunks

logger = logging.getLogger(__name__)

_STORE_RETRY_S = 1.0
"""How often a store that is away is asked again for a published clip."""
_AWAIT_S = POLL_S * 10
"""How often it is looked whether there is anything yet."""


class LineMedia:
    """Hands out a segment's media, which a thread gathers.

    They come from the frames in the hand-off folder of this host, encoded here as they are counted there; or through
    the relay, encoded by the worker of another host; or, where neither has them (any more), from the published clip.
    The place is chosen anew whenever the one in use ends, and whenever the rows name another attempt or GPU.

    What goes on from the last frame that was sent stays one stream: an attempt that takes over on the same type of GPU
    has equal frames, and so has the clip. All else is a stream of another id, which begins the segment anew. A file of
    an attempt that was lost stays unread: it has its full size, and nothing behind what was counted.
    """

    def __init__(self, settings: Settings, view: SessionView, index: int, opening: Opening) -> None:
        self._settings = settings
        self._index = index
        self._opening = opening
        self._gpu_types: dict[str | None, str] = {}
        """The type of GPU of each attempt that the rows named, by its file's name."""
        self._gaps: set[str | None] = set()
        """The types of GPU whose relay has nothing more for this client."""
        self.tell(view)
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[MediaBegin | Media | MediaEnd | BaseException] = asyncio.Queue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live-media", daemon=True)
        self._thread.start()
        self.complete = False
        """Whether all media were handed out."""

    def tell(self, view: SessionView) -> None:
        """Say what the rows say now."""
        segment = view.segments[self._index]
        gpu_type = segment.gpu_type or view.gpu_type
        sure = segment.gpu_type is not None or segment.frames_file is None
        if gpu_type is not None and (sure or segment.frames_file not in self._gpu_types):
            self._gpu_types[segment.frames_file] = gpu_type
        self._view, self._segment = view, segment

    async def next(self, timeout_s: float) -> MediaBegin | Media | MediaEnd | None:
        """Return what comes next; None: nothing came in that time. Raises SourceError."""
        try:
            async with asyncio.timeout(timeout_s):
                event = await self._events.get()
        except TimeoutError:
            return None
        if isinstance(event, BaseException):
            text = f"the segment with segment_idx {self._index} cannot be shown: {_why(event)}; the session goes on"
            raise SourceError("worker_failed", text, fatal=False) from event  # its clip is made all the same
        self.complete = isinstance(event, MediaEnd)
        return event

    async def aclose(self) -> None:
        self._stop.set()
        await asyncio.to_thread(self._thread.join)

    def _put(self, event: MediaBegin | Media | MediaEnd | BaseException) -> None:
        with contextlib.suppress(RuntimeError):  # the server has ended
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def _run(self) -> None:
        try:
            with contextlib.ExitStack() as stack:
                chunks = None if self._settings.solo else LiveChunks.of(self._settings)
                if chunks is not None:
                    stack.callback(chunks.close)
                whole = False
                while not whole and not self._stop.is_set():
                    whole = (chunks is not None and self._relayed(chunks)) or self._encoded(relays=chunks is not None)
        except Exception as error:
            if not self._stop.is_set():
                if not isinstance(error, VgenError):
                    logger.exception("live media failed", extra={"job_id": self._segment.job_id})
                self._put(error)

    # What the worker's own encoder sends

    @property
    def _gpu_type(self) -> str | None:
        """The type of GPU that the segment's frames are from, or will be."""
        return self._gpu_types.get(self._segment.frames_file, self._view.gpu_type)

    def _relayed(self, chunks: LiveChunks) -> bool:
        """Hand out what comes through the relay; False where that is not all of it."""
        while self._may_be_relayed(None):
            gpu_type = self._gpu_type
            relay = Relay(
                chunks,
                self._opening.session_id,
                gpu_type,
                self._index,
                mode=self._opening.mode,
                fps=self._view.fps,
                put=self._put,
            )

            def leave(quiet_s: float, relay: Relay = relay, gpu_type: str | None = gpu_type) -> bool:
                if self._gpu_type != gpu_type:
                    return True
                if self._attempt() is not None and (not relay.begun or quiet_s > QUIET_S):
                    return True
                return self._segment.video_key is not None and quiet_s > QUIET_S  # its encoder died

            ended = relay.read(self._stop, leave)
            if ended is Relayed.WHOLE:
                return True
            if ended is Relayed.GAP or relay.begun or self._segment.video_key is not None:
                self._gaps.add(gpu_type)
        return False

    def _may_be_relayed(self, read: str | None) -> bool:
        """Return whether a relay may have the segment; ``read`` is the file of which some frames were sent."""
        segment = self._segment
        return (
            not self._stop.is_set()
            and (read is None or segment.frames_file != read)
            and self._gpu_type not in self._gaps
            and self._attempt() is None
        )

    # What is encoded here

    def _encoded(self, *, relays: bool) -> bool:
        """Encode the frames and hand out what comes of it; False where another stream has to begin the segment anew."""
        view, stream = self._view, secrets.token_hex(16)
        count = view.num_frames if self._index == 0 else view.later_frames
        track = Track(view.width, view.height, view.fps, count)

        def take(chunk: Chunk) -> None:
            if chunk.kind is ChunkKind.INIT:
                self._put(MediaBegin(stream, chunk.mime, self._opening.mode, chunk.data))
            else:
                self._put(Media(chunk.index, chunk.data))

        encoding = FrameEncoding(self._opening.mode, track, on_chunk=take, silent=self._opening.silent_audio)
        try:
            for frames in self._places(encoding, relays=relays):
                for frame in frames.read(encoding.written):
                    if not encoding.written:
                        encoding.prepare(frames.count, frames.sound(), repeats=frames.sound_repeats)
                    encoding.write(frame)
                if encoding.written and encoding.written >= encoding.track.num_frames:
                    chunks = encoding.finish()
                    self._put(MediaEnd(chunks, encoding.track.seconds * 1000))
                    return True
            return False
        finally:
            encoding.abort()

    def _places(self, encoding: FrameEncoding, *, relays: bool) -> Iterator[Frames]:
        """Yield one place after the other from which the next frame can be read; it ends where there is none."""
        read: str | None = None
        gpu_type: str | None = None
        while not self._stop.is_set():
            path, segment = self._attempt(), self._segment
            if path is None and segment.video_key is None:
                if relays and self._may_be_relayed(read):
                    return
                self._stop.wait(_AWAIT_S)
                continue
            if encoding.written and self._gpu_type != gpu_type:
                return  # its frames may differ from those that were sent
            gpu_type = self._gpu_type
            if path is not None:
                if (frames := self._written(path)) is not None:
                    read = path.name
                    yield frames
            else:
                assert segment.video_key is not None
                yield from self._published(segment.video_key)

    def _published(self, key: str) -> Iterator[Frames]:
        count = self._segment.num_frames
        assert count is not None, "a clip is published once its frames are counted"
        if (downloaded := self._downloaded(key, count)) is None:
            return
        with contextlib.closing(downloaded) as frames:
            yield frames
        raise RetryableError(f"{key} has fewer than {count} frames", code="encode_mismatch")

    def _downloaded(self, key: str, count: int) -> PublishedFrames | None:
        """Return the clip's frames; a store that is away is waited for. None: they are not wanted any more.

        Raises:
            NotFoundError: the clip was deleted.
        """
        while not self._stop.is_set():
            try:
                return PublishedFrames(self._settings, key, count, self._view.fps)
            except RetryableError as error:
                logger.warning("store away", extra={"job_id": self._segment.job_id, "reason": str(error)})
                self._stop.wait(_STORE_RETRY_S)
        return None

    def _written(self, path: Path) -> WrittenFrames | None:
        """Return the frames of an attempt; None where its file is gone meanwhile."""
        frame_bytes = self._view.width * self._view.height * CHANNELS
        with contextlib.suppress(OSError):
            if size := path.stat().st_size:
                return WrittenFrames(
                    path,
                    frame_bytes,
                    size // frame_bytes,
                    self._view.num_frames,
                    wait=self._stop.wait,
                    complete=lambda: self._segment.generated and self._attempt() == path,
                    superseded=lambda: self._attempt() != path,
                )
        return None

    def _attempt(self) -> Path | None:
        """The file of the frames: of full size from the beginning, and empty once they are encoded.

        It is that of the attempt which is made or was the last to be, if this host's workers have it.
        """
        segment: StreamSegmentView = self._segment
        folder = self._settings.effective_handoff_dir
        if segment.frames_file is None or (segment.generated and segment.handoff_id != id_of(folder)):
            return None
        path = folder / segment.frames_file
        with contextlib.suppress(OSError):
            if path.stat().st_size:
                return path
        return None


def _why(error: BaseException) -> str:
    """What a client is told; where the store is, is no business of clients."""
    if isinstance(error, NotFoundError):
        return "its clip was deleted"
    return str(error) if isinstance(error, VgenError) else "its pictures could not be encoded"
