"""Which frames a segment's media are made of: those of the attempt that made it, wherever that was."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.encoding.ffmpeg import Sound
from pipeline.encoding.live import Mode
from pipeline.encoding.sound import add
from pipeline.generators.sound import write_sound
from pipeline.handoff import Handoff, count_frames, frame_counter
from pipeline.media.opening import open_media
from pipeline.settings import Settings, load_settings
from pipeline.wiring import make_storage
from server.stream.line.media import LineMedia
from server.stream.source import Media, MediaBegin, Opening
from service.views.sessions import SessionView, StreamSegmentView
from tests.videos import write_video

_SIZE, _FRAMES = 32, 8
_KEY = "media/b-000000/clip.mp4"
_WHITE, _GREY, _DARK = 250, 128, 40
_RATE = 16_000


def tone(seconds: float) -> Any:
    """Samples × two channels."""
    wave = 0.5 * np.sin(np.arange(round(seconds * _RATE)) / 6)
    return np.stack([wave, wave], axis=1).astype("<f4")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home")


def attempt(
    settings: Settings, number: int, written: int, *, value: int = _WHITE, sounds: bool = False
) -> tuple[Handoff, Path]:
    """The file of an attempt on this host, of which so many frames of that grey are written, perhaps with a sound."""
    handoff = Handoff.open(settings.effective_handoff_dir, 10_000_000)
    path = handoff.frames_path("b-000000", 1, 0, number)
    handoff.reserve(path, _FRAMES * _SIZE * _SIZE * 3)
    count_frames(path)
    if sounds:
        write_sound(path, tone(_FRAMES / 8), _RATE)
    with path.open("r+b", buffering=0) as file, frame_counter(path) as count:
        for _ in range(written):
            file.write(np.full((_SIZE, _SIZE, 3), value, np.uint8).tobytes())
            count()
    return handoff, path


def publish(settings: Settings, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", [Image.new("RGB", (_SIZE, _SIZE), (_GREY,) * 3)] * _FRAMES)
    make_storage(settings).put_bytes(_KEY, clip.read_bytes(), content_type="video/mp4")


def segment(attempt: int, **more: Any) -> StreamSegmentView:
    facts = {"num_frames": None, "video_key": None, "generated": False, "handoff_id": None, "gpu_type": None}
    name = f"b-000000.1.0.{attempt}.rgb"
    return StreamSegmentView.model_construct(segment=0, job_id="b-000000", frames_file=name, **{**facts, **more})


def view_of(segment: StreamSegmentView, gpu_type: str | None = "h200") -> SessionView:
    size = {"width": _SIZE, "height": _SIZE, "num_frames": _FRAMES, "later_frames": _FRAMES}
    return SessionView.model_construct(segments=[segment], fps=8, gpu_type=gpu_type, **size)


def brightness(settings: Settings, *told: StreamSegmentView, after: int = 0) -> list[int]:
    """The grey of each picture sent; what the rows say next is told once so many were."""

    async def watch() -> list[int]:
        media = LineMedia(settings, view_of(told[0]), 0, Opening("s", "ada", mode=Mode.LEGACY_JPEG))
        sent: list[int] = []
        try:
            async with asyncio.timeout(60):
                while not media.complete:
                    event = await media.next(1)
                    if isinstance(event, Media):
                        picture = Image.open(io.BytesIO(event.data)).convert("L")
                        sent.append(round(float(np.asarray(picture).mean())))
                    if len(sent) == after and len(told) > 1:
                        media.tell(view_of(told[1]))
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


def streams(
    settings: Settings, *told: SessionView, after: int = 0, mode: Mode = Mode.LEGACY_JPEG, silent: bool = False
) -> list[tuple[MediaBegin, list[bytes]]]:
    """Each stream that was begun, and its media; what the rows say next is told once so many were sent."""

    async def watch() -> list[tuple[MediaBegin, list[bytes]]]:
        media = LineMedia(settings, told[0], 0, Opening("s", "ada", mode=mode, silent_audio=silent))
        begun: list[tuple[MediaBegin, list[bytes]]] = []
        try:
            async with asyncio.timeout(60):
                while not media.complete:
                    event = await media.next(1)
                    if isinstance(event, MediaBegin):
                        begun.append((event, []))
                    elif isinstance(event, Media):
                        begun[-1][1].append(event.data)
                    if len(told) > 1 and sum(len(each) for _, each in begun) == after:
                        media.tell(told[1])
        finally:
            await media.aclose()
        return begun

    return asyncio.run(watch())


@pytest.mark.parametrize("gpu_type", ["h200", "a100"])
def test_an_attempt_on_another_type_of_gpu_begins_the_segment_anew(settings: Settings, gpu_type: str) -> None:
    # Given three frames of an attempt that was lost, and the whole of the next one, whose GPU may be another
    attempt(settings, 1, written=3)
    attempt(settings, 2, written=_FRAMES, value=_DARK)

    first, second = segment(1, gpu_type="h200"), segment(2, gpu_type=gpu_type)
    begun = streams(settings, view_of(first), view_of(second, gpu_type), after=3)

    # Then only equal frames go on in one stream
    greys = [[_grey(picture) for picture in pictures] for _, pictures in begun]
    if gpu_type == "h200":
        assert greys == [[pytest.approx(_WHITE, abs=8)] * 3 + [pytest.approx(_DARK, abs=8)] * (_FRAMES - 3)]
    else:
        assert greys == [[pytest.approx(_WHITE, abs=8)] * 3, [pytest.approx(_DARK, abs=8)] * _FRAMES]
        assert begun[0][0].stream_id != begun[1][0].stream_id


def _grey(picture: bytes) -> int:
    return round(float(np.asarray(Image.open(io.BytesIO(picture)).convert("L")).mean()))


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("place", ["frames", "clip"])
def test_the_sound_of_a_model_is_in_the_stream(settings: Settings, tmp_path: Path, place: str, silent: bool) -> None:
    if place == "frames":
        attempt(settings, 1, written=_FRAMES, sounds=True)
        made = segment(1)
    else:
        (tmp_path / "raw.sound").write_bytes(tone(_FRAMES / 8).tobytes())
        clip = write_video(tmp_path / "clip.mp4", [Image.new("RGB", (_SIZE, _SIZE))] * _FRAMES)
        heard = Sound(tmp_path / "raw.sound", _RATE, 2)
        add(clip, heard, tmp_path / "heard.mp4", metadata={}, check=lambda: None, timeout_s=60)
        make_storage(settings).put_bytes(_KEY, (tmp_path / "heard.mp4").read_bytes(), content_type="video/mp4")
        made = segment(1, generated=True, handoff_id="elsewhere", num_frames=_FRAMES, video_key=_KEY)

    ((begin, fragments),) = streams(settings, view_of(made), mode=Mode.AV_FMP4, silent=silent)

    assert begin.mime.endswith(', mp4a.40.2"')
    with open_media(io.BytesIO(begin.init + b"".join(fragments))) as container:
        samples = np.concatenate([each.to_ndarray() for each in container.decode(audio=0)], axis=1)
    seconds = samples.shape[1] / 48_000
    assert _FRAMES / 8 <= seconds < _FRAMES / 8 + 0.05
    assert float(np.sqrt((samples[:, 4_800:43_200] ** 2).mean())) == pytest.approx(0.5 / 2**0.5, rel=0.1)
