from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.encoding.ffmpeg import encode
from pipeline.encoding.probe import VideoFacts, probe, verify
from pipeline.errors import RetryableError, StoppedError
from pipeline.spec import EncodeOptions
from tests.unit.pipeline.encoding.clips import moving_picture, write_raw

ASKED = {"width": 96, "height": 64, "num_frames": 9, "fps": 29.97}


@pytest.fixture
def video(tmp_path: Path) -> Path:
    raw = write_raw(tmp_path / "clip.rgb", moving_picture(9, 64, 96))
    out = tmp_path / "clip.mp4"
    encode(
        raw,
        out,
        **ASKED,  # type: ignore[arg-type]
        options=EncodeOptions(),
        metadata={},
        check=lambda: None,
        timeout_s=60,
    )
    return out


def test_the_facts_are_those_of_the_file(video: Path) -> None:
    facts = probe(video)
    assert facts == VideoFacts("h264", "yuv420p", 96, 64, 9, "30000/1001", 9 / (30000 / 1001))
    verify(facts, **ASKED)  # type: ignore[arg-type]


@pytest.mark.parametrize(("field", "value"), [("width", 98), ("height", 62), ("num_frames", 10), ("fps", 30.0)])
def test_each_value_that_differs_is_named(field: str, value: float, video: Path) -> None:
    with pytest.raises(RetryableError, match=field) as caught:
        verify(probe(video), **(ASKED | {field: value}))  # type: ignore[arg-type]
    assert caught.value.code == "encode_mismatch"


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_file_does_not_pass(damage: str, video: Path) -> None:
    data = video.read_bytes()
    video.write_bytes({"cut": data[: len(data) * 2 // 3], "empty": b"", "text": b"no video\n" * 99}[damage])
    with pytest.raises(RetryableError) as caught:
        verify(probe(video), **ASKED)  # type: ignore[arg-type]
    assert caught.value.code == "encode_mismatch"


def test_it_can_be_stopped(video: Path) -> None:
    def stop() -> None:
        raise StoppedError("drain")

    with pytest.raises(StoppedError):
        probe(video, stop)
