"""One video made segment by segment from Python, with a real child process."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.errors import ConflictError, InputError
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
