from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.encoding.pictures import make_poster, make_strip, read_frame, strip_indices
from pipeline.errors import RetryableError
from tests.unit.pipeline.encoding.clips import moving_picture, write_raw


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_raw(tmp_path / "clip.rgb", moving_picture(9, 64, 96))


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_the_poster_is_the_middle_frame(suffix: str, raw: Path, tmp_path: Path) -> None:
    out = tmp_path / f"poster.{suffix}"
    make_poster(raw, out, width=96, height=64, num_frames=9)

    with Image.open(out) as poster:
        shown = np.asarray(poster.convert("RGB")).astype(int)
    frames = moving_picture(9, 64, 96)
    errors = [np.abs(shown - frame).mean() for frame in frames]
    assert shown.shape == (64, 96, 3)
    assert int(np.argmin(errors)) == 4


def test_the_strip_shows_first_to_last_in_order(tmp_path: Path) -> None:
    greys = np.arange(11, dtype=np.uint8).repeat(400 * 20 * 3) * 20
    raw = write_raw(tmp_path / "greys.rgb", greys.reshape(11, 400, 20, 3))
    make_strip(raw, tmp_path / "strip.jpg", width=20, height=400, num_frames=11)

    with Image.open(tmp_path / "strip.jpg") as strip:
        assert strip.size == (6 * 9, 180)
        middles = np.asarray(strip.convert("L"))[90, 4::9]
    assert np.allclose(middles, [0, 40, 80, 120, 160, 200], atol=4)


@pytest.mark.parametrize(
    ("frames", "shown"), [(1, [0]), (2, [0, 1]), (6, [0, 1, 2, 3, 4, 5]), (81, [0, 16, 32, 48, 64, 80])]
)
def test_a_strip_never_shows_a_frame_twice(frames: int, shown: list[int]) -> None:
    assert strip_indices(frames) == shown


def test_pictures_are_the_same_each_time(raw: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_poster(raw, tmp_path / f"{name}.jpg", width=96, height=64, num_frames=9)
        make_strip(raw, tmp_path / f"{name}.strip.jpg", width=96, height=64, num_frames=9)
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()
    assert (tmp_path / "a.strip.jpg").read_bytes() == (tmp_path / "b.strip.jpg").read_bytes()


def test_a_frame_that_is_not_there_is_said(raw: Path) -> None:
    with pytest.raises(RetryableError, match="frame 9") as caught:
        read_frame(raw, 9, width=96, height=64)
    assert caught.value.code == "frames_corrupt"
