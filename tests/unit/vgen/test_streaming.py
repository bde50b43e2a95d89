"""One video made segment by segment from Python, with a real child process."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ConflictError, InputError
from tests.tiny_pipelines import TINY_INPUTS
from vgen import FinalEvent, ProgressEvent, StreamingVideoGenerator, VideoRequest

SMALL = {"num_frames": 5, "width": 64, "height": 48, "fps": 8, "num_inference_steps": 2}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VGEN_HOME", str(tmp_path / "home"))


@pytest.fixture
def generator() -> Iterator[StreamingVideoGenerator]:
    with StreamingVideoGenerator.from_preset("idle") as made:
        yield made


def request(prompt: str, **fields: object) -> VideoRequest:
    return VideoRequest(prompt, **{**SMALL, "seed": 7, **fields})  # type: ignore[arg-type]


def test_segments_become_one_video(generator: StreamingVideoGenerator) -> None:
    generator.reset(output="walk.mp4")
    steps = [generator.step(request(prompt)) for prompt in ("a fox", "it runs", "it sleeps")]
    video = generator.finalize()

    assert [step.num_frames for step in steps] == [5, 4, 4]  # a later one repeats a frame of the one before
    assert [len(step.frames) for step in steps if step.frames is not None] == [5, 4, 4]
    frames = np.concatenate([step.frames for step in steps if step.frames is not None])
    assert video.frames_sha256 == hashlib.sha256(frames.tobytes()).hexdigest()
    assert (video.num_frames, video.prompts) == (13, ("a fox", "it runs", "it sleeps"))
    with av.open("walk.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 13


def test_a_segment_depends_on_the_one_before_and_a_reset_begins_anew(generator: StreamingVideoGenerator) -> None:
    def digests(first_seed: int) -> list[str]:
        generator.reset()
        return [generator.step(request("a", seed=seed)).frames_sha256 for seed in (first_seed, 3)]

    one, again, other = digests(1), digests(1), digests(2)
    assert one == again
    assert one[1] != other[1]
    assert generator.finalize().video_path is None


def test_what_cannot_be_is_refused_and_changes_nothing(generator: StreamingVideoGenerator) -> None:
    with pytest.raises(ConflictError, match="reset"):
        generator.step("a fox")
    with pytest.raises(InputError, match=r"\.mp4"):
        generator.reset(output="walk.avi")
    generator.reset()
    with pytest.raises(ConflictError, match="no segment"):
        generator.finalize()
    generator.step(request("a fox"))
    with pytest.raises(InputError, match="width"):
        generator.step(request("a fox", width=32))
    with pytest.raises(InputError, match="num_frames"):
        generator.step(request("a fox", num_frames=1))
    generator.step(request("it runs"))
    assert generator.finalize().num_frames == 9


def test_steps_are_told_beside_the_event_loop(generator: StreamingVideoGenerator) -> None:
    async def watch() -> list[object]:
        return [event async for event in generator.step_async(request("a fox"))]

    generator.reset()
    events = asyncio.run(watch())
    assert isinstance(events[-1], FinalEvent)
    denoised = [event.step for event in events if isinstance(event, ProgressEvent) and event.phase == "denoise"]
    assert denoised[-1] == 2
    assert generator.finalize().num_frames == 5


def test_nothing_is_left_behind(
    generator: StreamingVideoGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    generator.reset()
    generator.step(request("a fox"))
    generator.finalize()
    assert list((tmp_path / "t").glob("vgen-stream-*")) == []


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_a_video_begins_with_an_image_and_goes_on_from_its_segments(tmp_path: Path) -> None:
    TINY_INPUTS["ltx2-image"].save(tmp_path / "model", tmp_path / "presets", "tiny-ltx2")
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "first.png")
    clip: dict[str, Any] = {"num_frames": 25, "width": 32, "height": 32, "fps": 8, "num_inference_steps": 2, "seed": 5}
    with StreamingVideoGenerator.from_preset("tiny-ltx2", settings={"presets_dir": tmp_path / "presets"}) as generator:
        generator.reset()
        with pytest.raises(InputError, match="image"):
            generator.step(VideoRequest("rain", **clip))  # this preset needs one
        generator.step(VideoRequest("rain", image=tmp_path / "first.png", **clip))
        with pytest.raises(InputError, match="only a video's first segment"):
            generator.step(VideoRequest("snow", image=tmp_path / "first.png", **clip))
        second = generator.step(VideoRequest("snow", **clip))
        assert second.num_frames == 25 - 9
        assert generator.finalize().prompts == ("rain", "snow")


def test_calls_in_a_wrong_order_name_the_right_one(generator: StreamingVideoGenerator) -> None:
    with pytest.raises(ConflictError, match="call reset first"):
        generator.finalize()
    generator.reset()
    generator.step(request("a fox"))
    generator.finalize()
    for call in (generator.finalize, lambda: generator.step("a fox")):
        with pytest.raises(ConflictError, match="call reset first"):
            call()
    generator.shutdown()
    generator.reset()
    with pytest.raises(ConflictError, match="shut down"):
        generator.step(request("a fox"))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[StreamingVideoGenerator]:
    monkeypatch.setenv("VGEN_IDLE_STEP_S", "0.2")
    with StreamingVideoGenerator.from_preset("idle") as made:
        yield made


def test_a_reset_waits_for_a_segment_of_another_thread(slow: StreamingVideoGenerator) -> None:
    begun, made = threading.Event(), []
    slow.reset()

    def step() -> None:
        made.append(slow.step(request("a fox"), on_progress=lambda _: begun.set()))

    thread = threading.Thread(target=step)
    thread.start()
    assert begun.wait(60)
    slow.reset()
    thread.join(60)

    assert [each.num_frames for each in made] == [5]
    with pytest.raises(ConflictError, match="no segment"):
        slow.finalize()


def test_a_segment_that_is_given_up_before_its_turn_stops_no_other(slow: StreamingVideoGenerator) -> None:
    async def watch() -> list[object]:
        events: list[object] = []
        waiting: asyncio.Task[object] | None = None
        async for event in slow.step_async(request("a fox")):
            events.append(event)
            if waiting is None:
                waiting = asyncio.ensure_future(anext(slow.step_async(request("never made"))))
                await asyncio.sleep(0.05)
                waiting.cancel()
        assert waiting is not None
        await asyncio.gather(waiting, return_exceptions=True)
        return events

    slow.reset()
    assert isinstance(asyncio.run(watch())[-1], FinalEvent)
    assert slow.finalize().prompts == ("a fox",)


def test_a_segment_that_ctrl_c_interrupts_may_be_tried_again(slow: StreamingVideoGenerator) -> None:
    slow.reset()
    first = slow.step(request("a fox"))

    def interrupt(event: ProgressEvent) -> None:
        if event.phase == "denoise" and event.step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            slow.step(request("it runs"), on_progress=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    again = slow.step(request("it runs"))
    assert again.frames_sha256 != first.frames_sha256
    assert slow.finalize().prompts == ("a fox", "it runs")
