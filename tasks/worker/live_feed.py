"""The live encoder of a session's segment: follows the frames as they are written, and records nothing.

It is beside the step's work: whatever happens to it, the clip is made, encoded and published as any other.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import redis

from db.session import Database
from db.sessions import rows
from pipeline.encoding.live import Chunk, ChunkKind, FrameEncoding, Mode, Track, sound_beside
from pipeline.encoding.live.following import follow
from pipeline.errors import VgenError
from pipeline.handoff import Handoff
from pipeline.settings import Settings
from pipeline.work import StepWork
from tasks.live_chunks import END, INIT, LiveChunks, stream_of

logger = logging.getLogger(__name__)
_PATIENCE_S = 30.0
"""A Redis that is away for less costs no fragment: the frames wait in their file."""
_NO_FRAMES_S = 60.0
"""A step that has not begun its frames' file by then does not need its feed."""


def start_live_feed(
    settings: Settings, database: Database, work: StepWork, handoff: Handoff, gpu_type: str | None
) -> None:
    """Start the feed of a generate step in a thread of its own, where it is a session's and chunks are wanted.

    The thread ends with the last frame, or with the file that they are written to.
    """
    session = work.options.session
    try:
        chunks = LiveChunks.of(settings, patience_s=_PATIENCE_S)
    except ValueError as error:  # a URL that Redis' library does not understand
        logger.warning("live media are not sent", extra={**work.log_data, "reason": str(error)})
        return
    if session is None or chunks is None:
        return
    segment = int(work.job_id.rpartition("-")[2])
    path = handoff.frames_path(work.job_id, work.roll, work.segment, work.attempt)
    feed = _Feed(chunks, database, stream_of(session, gpu_type), session, segment)
    thread = threading.Thread(target=feed.run, args=(path, work), name="live-feed", daemon=True)
    thread.start()


class _Feed:
    def __init__(self, chunks: LiveChunks, database: Database, stream: str, session: str, segment: int) -> None:
        self._chunks = chunks
        self._database = database
        self._stream = stream
        self._session = session
        self._segment = segment
        self._mode = ""

    def run(self, path: Path, work: StepWork) -> None:
        try:
            self._feed(path, work)
        except (VgenError, redis.RedisError, OSError) as error:
            logger.warning("live media stopped", extra={**work.log_data, "reason": str(error)})
        finally:
            self._chunks.close()

    def _feed(self, path: Path, work: StepWork) -> None:
        spec = work.spec
        track = Track(spec.width, spec.height, spec.fps, spec.frames_of(work.segment))
        mode, silent = self._wanted()
        self._mode = mode.value
        repeats = spec.num_frames - track.num_frames
        encoding = FrameEncoding(mode, track, on_chunk=self._put, silent=silent)
        try:
            end = time.monotonic() + _NO_FRAMES_S
            while not path.exists():
                if time.monotonic() > end:
                    return
                time.sleep(0.02)
            for frame in follow(path, track.frame_bytes, 0, track.num_frames, wait=_wait):
                encoding.prepare(track.num_frames, sound_beside(path), repeats=repeats)
                encoding.write(frame)
            if encoding.written == track.num_frames:
                facts = {"chunks": encoding.finish(), "frames": encoding.written}
                self._chunks.append(self._stream, self._segment, END, facts)
        finally:
            encoding.abort()

    def _wanted(self) -> tuple[Mode, bool]:
        """How the session's client wants its media, and whether with silence. Raises ServiceUnavailableError."""
        with self._database.reading() as session:
            row = rows.find(session, self._session)
        extra = {} if row is None else row.extra
        return Mode(extra.get(rows.STREAM_MODE, Mode.AV_FMP4)), bool(extra.get(rows.SILENT_AUDIO))

    def _put(self, chunk: Chunk) -> None:
        number = INIT if chunk.kind is ChunkKind.INIT else INIT + 1 + chunk.index
        fields: dict[str, bytes | str | int] = {"data": chunk.data, "mime": chunk.mime, "mode": self._mode}
        self._chunks.append(self._stream, self._segment, number, fields)


def _wait(seconds: float) -> bool:
    time.sleep(seconds)
    return False
