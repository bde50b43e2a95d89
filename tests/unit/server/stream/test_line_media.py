"""Which frames a segment's media are made of: those of the attempt that made it, wherever that was."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.encoding.live import Mode
from pipeline.handoff import Handoff, count_frames, frame_counter
from pipeline.settings import Settings, load_settings
from pipeline.wiring import make_storage
from server.stream.line.media import LineMedia
from server.stream.source import Media, Opening
from service.views.sessions import SessionView, StreamSegmentView
from tests.videos import write_video

_SIZE, _FRAMES = 32, 8
_KEY = "media/b-000000/clip.mp4"
_WHITE, _GREY = 250, 128


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home")


def attempt(settings: Settings, number: int, written: int) -> tuple[Handoff, Path]:
    """The file of an attempt on this host, of which so many white frames are written."""
    handoff = Handoff.open(settings.effective_handoff_dir, 10_000_000)
    path = handoff.frames_path("b-000000", 1, 0, number)
    handoff.reserve(path, _FRAMES * _SIZE * _SIZE * 3)
    count_frames(path)
    with path.open("r+b", buffering=0) as file, frame_counter(path) as count:
        for _ in range(written):
            file.write(np.full((_SIZE, _SIZE, 3), _WHITE, np.uint8).tobytes())
            count()
    return handoff, path


def publish(settings: Settings, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", [Image.new("RGB", (_SIZE, _SIZE), (_GREY,) * 3)] * _FRAMES)
    make_storage(settings).put_bytes(_KEY, clip.read_bytes(), content_type="video/mp4")


def segment(attempt: int, **more: Any) -> StreamSegmentView:
    facts = {"num_frames": None, "video_key": None, "generated": False, "handoff_id": None}
    name = f"b-000000.1.0.{attempt}.rgb"
    return StreamSegmentView.model_construct(segment=0, job_id="b-000000", frames_file=name, **{**facts, **more})


def brightness(settings: Settings, *told: StreamSegmentView, after: int = 0) -> list[int]:
    """The grey of each picture sent; what the rows say next is told once so many were."""

    async def watch() -> list[int]:
        size = {"width": _SIZE, "height": _SIZE, "num_frames": _FRAMES, "later_frames": _FRAMES}
        view = SessionView.model_construct(segments=[told[0]], fps=8, gpu_type="h200", **size)
        media = LineMedia(settings, view, 0, Opening("s", "ada", mode=Mode.LEGACY_JPEG))
        sent: list[int] = []
        try:
            async with asyncio.timeout(60):
                while not media.complete:
                    event = await media.next(1)
                    if isinstance(event, Media):
                        picture = Image.open(io.BytesIO(event.data)).convert("L")
                        sent.append(round(float(np.asarray(picture).mean())))
                    if len(sent) == after and len(told) > 1:
                        media.tell(told[1])
        finally:
            await media.aclose()
        return sent

    return asyncio.run(watch())


@pytest.mark.parametrize("followed", [False, True])
def test_the_file_of_an_attempt_that_was_lost_is_never_taken_for_the_whole(
    settings: Settings, tmp_path: Path, followed: bool
) -> None:
    # Given two frames of an attempt whose worker was killed here, and a clip that the next attempt made elsewhere
    attempt(settings, 1, written=2)
    publish(settings, tmp_path)
    made = segment(2, generated=True, handoff_id="elsewhere", num_frames=_FRAMES, video_key=_KEY)

    # When a client comes before the worker is killed, or once the clip is there
    told = (segment(1), made) if followed else (made,)
    sent = brightness(settings, *told, after=2)

    # Then it gets every frame, and none of those that nobody wrote
    white = 2 if followed else 0
    assert sent == [pytest.approx(_WHITE, abs=8)] * white + [pytest.approx(_GREY, abs=8)] * (_FRAMES - white)


def test_the_file_of_the_attempt_that_made_the_segment_is_whole_without_a_count(settings: Settings) -> None:
    handoff, path = attempt(settings, 2, written=_FRAMES)
    path.with_suffix(".written").unlink()

    sent = brightness(settings, segment(2, generated=True, handoff_id=handoff.id, num_frames=_FRAMES))

    assert sent == [pytest.approx(_WHITE, abs=8)] * _FRAMES
