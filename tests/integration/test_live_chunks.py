"""Live media through a real Redis: what is refused, what a server makes of gaps, and that they come while frames do."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from db import schema
from db.session import Database
from pipeline.encoding.live import Mode
from pipeline.generators.sound import write_sound
from pipeline.handoff import Handoff, count_frames, frame_counter
from pipeline.outputs import StageOutputs
from pipeline.settings import Settings, load_settings
from pipeline.spec import BatchOptions, JobSpec
from pipeline.states import Stage
from pipeline.work import StepWork
from server.stream.line.media import LineMedia
from server.stream.source import Media, MediaBegin, MediaEnd, Opening
from service import sessions
from service.views.sessions import SessionView, StreamSegmentView
from tasks.live_chunks import END, INIT, LiveChunks, stream_id, stream_of
from tasks.worker.live_feed import start_live_feed
from tests.unit.db.session_line import SessionLine

WIDTH, HEIGHT, FPS, FRAMES = 32, 32, 8, 8
RATE = 16_000


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    """Those of a server or worker of a cluster; each test's sessions have ids of their own."""
    return load_settings(
        home=tmp_path / "home",
        database_url="postgresql+psycopg://nobody@127.0.0.1:9/none",
        broker_url=redis_url,
        storage=str(tmp_path / "store"),
        handoff_dir=tmp_path / "server-handoff",
        stream={"chunks_url": redis_url},
    )


@pytest.fixture
def chunks(settings: Settings) -> Iterator[LiveChunks]:
    made = LiveChunks.of(settings)
    assert made is not None
    yield made
    made.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A worker's, with the schema."""
    opened = Database(f"sqlite:///{tmp_path / 'rows.db'}")
    schema.upgrade(opened)
    yield opened
    opened.close()


def test_redis_refuses_what_comes_again_or_late(chunks: LiveChunks) -> None:
    stream = stream_of(secrets.token_hex(16), "h200")
    assert chunks.append(stream, 0, INIT, {"data": b"i"})
    assert chunks.append(stream, 0, INIT + 1, {"data": b"a"})
    assert not chunks.append(stream, 0, INIT, {"data": b"i"})  # an attempt that takes over begins anew
    assert not chunks.append(stream, 0, INIT + 1, {"data": b"a"})
    assert chunks.append(stream, 0, INIT + 2, {"data": b"b"})  # and goes on where the other one was
    assert chunks.append(stream, 1, INIT, {"data": b"i"})
    assert not chunks.append(stream, 0, INIT + 3, {"data": b"c"})  # late, of an attempt that was fenced
    entries = chunks.read(stream, 0, 0, wait_s=0.1)
    assert [(each.segment, each.number, each.fields["data"]) for each in entries] == [
        (0, INIT, b"i"), (0, INIT + 1, b"a"), (0, INIT + 2, b"b"), (1, INIT, b"i")]  # fmt: skip
    assert chunks.read(stream_of("other", "h200"), 0, 0, wait_s=0.01) == []


class Step:
    """A generate step of a session, its sound, and the frames that it writes."""

    def __init__(self, session: str, folder: Path, attempt: int = 1) -> None:
        spec = JobSpec(prompt="a", preset="idle", seed=1, width=WIDTH, height=HEIGHT, num_frames=FRAMES, fps=FPS,
                       num_inference_steps=1, guidance_scale=1)  # fmt: skip
        self.work = StepWork("b-000000", "b", 1, 1, 0, Stage.GENERATE, attempt, spec,
                             BatchOptions(session=session), StageOutputs())  # fmt: skip
        self.handoff = Handoff.open(folder, 10_000_000)
        self.path = self.handoff.frames_path("b-000000", 1, 0, attempt)
        self.handoff.reserve(self.path, FRAMES * WIDTH * HEIGHT * 3)
        count_frames(self.path)
        samples = np.sin(np.arange(FRAMES * RATE // FPS) / 6)[:, None].astype("<f4")
        write_sound(self.path, samples, RATE)

    def write(self, first: int, until: int) -> None:
        """Frames of equal content in each attempt."""
        with self.path.open("r+b", buffering=0) as file, frame_counter(self.path) as count:
            for number in range(until):
                file.write(np.full((HEIGHT, WIDTH, 3), number * 20, np.uint8).tobytes())
                count()
                if number >= first:
                    time.sleep(0.01)


def _numbers(chunks: LiveChunks, stream: str, last: int) -> list[int]:
    """The numbers of a segment's entries up to one, once that is there."""
    end = time.monotonic() + 60
    while True:
        numbers = [each.number for each in chunks.read(stream, 0, 0, wait_s=0.2)]
        if last in numbers or time.monotonic() > end:
            return numbers


def test_fragments_come_before_the_last_frame_and_an_attempt_that_takes_over_adds_the_rest(
    settings: Settings, database: Database, chunks: LiveChunks, tmp_path: Path
) -> None:
    session = secrets.token_hex(16)
    stream = stream_of(session, "h200")
    lost = Step(session, tmp_path / "worker")
    start_live_feed(settings, database, lost.work, lost.handoff, "h200")
    lost.write(0, 6)
    assert INIT + 1 in _numbers(chunks, stream, INIT + 1)
    assert END not in _numbers(chunks, stream, INIT + 1)
    lost.handoff.free(lost.path)  # its worker died

    again = Step(session, tmp_path / "worker", attempt=2)
    start_live_feed(settings, database, again.work, again.handoff, "h200")
    again.write(0, FRAMES)
    assert _numbers(chunks, stream, END) == [INIT, *range(INIT + 1, INIT + 5), END]

    # And both parts together are what one attempt would have sent
    whole = stream_of(secrets.token_hex(16), "h200")
    alone = Step(whole.partition(":")[0], tmp_path / "other")
    start_live_feed(settings, database, alone.work, alone.handoff, "h200")
    alone.write(0, FRAMES)
    assert _numbers(chunks, whole, END)[-1] == END
    sent, at_once = ([each.fields for each in chunks.read(name, 0, 0, wait_s=1)] for name in (stream, whole))
    assert sent == at_once


def test_media_are_made_as_the_newest_client_wants_them(
    settings: Settings, database: Database, chunks: LiveChunks, tmp_path: Path
) -> None:
    line = SessionLine(database)
    line.worker(slots=1)
    session = line.open().id
    sessions.update_extra(database, session, stream_mode="av_fmp4", silent_audio=True)
    sessions.update_extra(database, session, stream_mode="legacy_jpeg")
    step = Step(session, tmp_path / "worker")
    start_live_feed(settings, database, step.work, step.handoff, "h200")
    step.write(0, FRAMES)
    assert END in _numbers(chunks, stream := stream_of(session, "h200"), END)
    assert {each.fields["mode"] for each in chunks.read(stream, 0, 0, wait_s=1) if each.number != END} == {
        b"legacy_jpeg"
    }


def _view(reserved: str = "h200", /, **segment: Any) -> SessionView:
    facts = {
        "video_key": None,
        "num_frames": None,
        "generated": False,
        "frames_file": None,
        "handoff_id": None,
        "gpu_type": None,
    }
    own = StreamSegmentView.model_construct(segment=0, job_id="b-000000", **{**facts, **segment})
    size = {"width": WIDTH, "height": HEIGHT, "num_frames": FRAMES, "later_frames": FRAMES}
    return SessionView.model_construct(segments=[own], fps=FPS, gpu_type=reserved, **size)


def _media(settings: Settings, session: str, mode: Mode = Mode.AV_FMP4, **segment: Any) -> LineMedia:
    return LineMedia(settings, _view(**segment), 0, Opening(session, "ada", mode=mode))


async def _all(media: LineMedia) -> list[Any]:
    events: list[Any] = []
    try:
        async with asyncio.timeout(60):
            while not media.complete:
                if (event := await media.next(1)) is not None:
                    events.append(event)
    finally:
        await media.aclose()
    return events


@pytest.mark.parametrize("lost_here", [False, True])
def test_a_server_on_another_host_hands_on_what_the_worker_sends(
    settings: Settings, database: Database, tmp_path: Path, lost_here: bool
) -> None:
    session = secrets.token_hex(16)
    if lost_here:  # the file of an attempt before, whose worker was killed on the server's own host
        Step(session, settings.effective_handoff_dir).write(0, 2)
    step = Step(session, tmp_path / "worker", attempt=2)

    async def watch() -> list[Any]:
        media = _media(settings, session, frames_file=step.path.name)
        start_live_feed(settings, database, step.work, step.handoff, "h200")
        await asyncio.to_thread(step.write, 0, FRAMES)
        return await _all(media)

    events = asyncio.run(watch())
    assert [type(event) for event in events] == [MediaBegin, Media, Media, Media, Media, MediaEnd]
    assert events[0].mime.endswith(', mp4a.40.2"')
    assert events[-1] == MediaEnd(4, 1000)


@pytest.mark.parametrize("fault", ["gap", "count", "mode"])
def test_what_is_missing_is_not_glossed_over(settings: Settings, chunks: LiveChunks, fault: str) -> None:
    """The thread then looks for the frames or the published clip; here are neither, so it waits for them."""
    session = secrets.token_hex(16)
    stream = stream_of(session, "h200")
    mode = "legacy_jpeg" if fault == "mode" else "av_fmp4"
    chunks.append(stream, 0, INIT, {"data": b"i", "mime": "video/mp4", "mode": mode})
    chunks.append(stream, 0, INIT + (2 if fault == "gap" else 1), {"data": b"a", "mime": "", "mode": mode})
    chunks.append(stream, 0, END, {"chunks": 2 if fault == "count" else 1, "frames": FRAMES})

    async def watch() -> list[Any]:
        media = _media(settings, session)
        events = [await media.next(1) for _ in range(4)]
        await media.aclose()
        return [event for event in events if event is not None]

    assert not any(isinstance(event, MediaEnd) for event in asyncio.run(watch()))


def _send(chunks: LiveChunks, stream: str, first: int, until: int, *, whole: bool = False) -> None:
    """Fragments of a segment as a worker sends them."""
    for number in range(first, until):
        mime = "video/mp4" if number == INIT else ""
        chunks.append(stream, 0, number, {"data": f"{stream[-4:]}{number}", "mime": mime, "mode": "av_fmp4"})
    if whole:
        chunks.append(stream, 0, END, {"chunks": until - INIT - 1, "frames": FRAMES})


async def _until(media: LineMedia, events: list[Any], count: int) -> None:
    async with asyncio.timeout(60):
        while len(events) < count:
            if (event := await media.next(1)) is not None:
                events.append(event)


def test_a_segment_goes_on_live_when_the_session_gets_another_type_of_gpu(
    settings: Settings, chunks: LiveChunks
) -> None:
    session = secrets.token_hex(16)
    old, new = stream_of(session, "h200"), stream_of(session, "a100")

    async def watch() -> list[Any]:
        events: list[Any] = []
        media = _media(settings, session, frames_file="b-000000.1.0.1.rgb", gpu_type="h200")
        try:
            _send(chunks, old, INIT, INIT + 3)
            await _until(media, events, 3)
            # The worker dies; its session gets a GPU of another type, which has no attempt at first
            media.tell(_view("a100", frames_file="b-000000.1.0.1.rgb", gpu_type=None))
            media.tell(_view("a100", frames_file="b-000000.1.0.2.rgb", gpu_type="a100"))
            _send(chunks, new, INIT, INIT + 5, whole=True)
            await _until(media, events, 9)
        finally:
            await media.aclose()
        return events

    events = asyncio.run(watch())
    begun = [event for event in events if isinstance(event, MediaBegin)]
    assert [each.stream_id for each in begun] == [stream_id(old, 0), stream_id(new, 0)]
    assert events[-1] == MediaEnd(4, 1000)
    assert [event.index for event in events if isinstance(event, Media)] == [0, 1, 0, 1, 2, 3]


def test_a_segment_goes_on_where_it_was_when_redis_was_emptied(settings: Settings, chunks: LiveChunks) -> None:
    session = secrets.token_hex(16)
    stream = stream_of(session, "h200")

    async def watch() -> list[Any]:
        events: list[Any] = []
        media = _media(settings, session)
        try:
            _send(chunks, stream, INIT, INIT + 3)
            await _until(media, events, 3)
            redis.Redis.from_url(str(settings.broker_url)).flushdb()
            _send(chunks, stream, INIT + 3, INIT + 5, whole=True)
            await _until(media, events, 6)
        finally:
            await media.aclose()
        return events

    events = asyncio.run(watch())
    assert [type(event) for event in events] == [MediaBegin, *[Media] * 4, MediaEnd]


@pytest.mark.parametrize("moves", ["here", "away"])
def test_a_segment_goes_on_live_when_its_session_moves_to_another_host(
    settings: Settings, chunks: LiveChunks, moves: str
) -> None:
    # Given a session whose worker was lost within a segment: on another host, or on the server's own
    session = secrets.token_hex(16)
    stream = stream_of(session, "a100")

    async def watch() -> list[Any]:
        events: list[Any] = []
        if moves == "here":
            media = _media(settings, session, frames_file="b-000000.1.0.1.rgb", gpu_type="a100")
            _send(chunks, stream, INIT, INIT + 2)
        else:
            lost = Step(session, settings.effective_handoff_dir)
            media = _media(settings, session, frames_file=lost.path.name, gpu_type="a100")
            lost.write(0, 4)
        try:
            await _until(media, events, 2)
            again = Step(session, settings.effective_handoff_dir, attempt=2) if moves == "here" else None
            media.tell(_view("a100", frames_file="b-000000.1.0.2.rgb", gpu_type="a100"))
            if again is not None:
                again.write(0, FRAMES)
            else:
                _send(chunks, stream, INIT, INIT + 5, whole=True)
            return events + await _all(media)
        finally:
            await media.aclose()

    events = asyncio.run(watch())
    begun = [number for number, event in enumerate(events) if isinstance(event, MediaBegin)]
    assert len(begun) == 2
    assert [type(event) for event in events[begun[1] :]] == [MediaBegin, *[Media] * 4, MediaEnd]
