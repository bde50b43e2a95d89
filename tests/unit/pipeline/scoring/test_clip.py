"""Reading clips: pixels, rates, and everything that is no clip."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import pytest

from pipeline.errors import RefusedError
from pipeline.scoring import Clip, read_clip
from tests.unit.pipeline.scoring.conftest import DATA


def test_a_clip_is_decoded_whole(clip_of: Callable[[str], Clip]) -> None:
    clip = clip_of("ntsc")
    assert clip.frames.shape == (17, 128, 136, 3)
    assert clip.fps == Fraction(30000, 1001)
    assert not clip.has_audio
    with pytest.raises(ValueError, match="read-only"):
        clip.frames[0] = 0
    odd = clip_of("odd_sizes")
    assert (odd.width, odd.height) == (133, 129)


def test_features_are_computed_once_per_clip(clip_of: Callable[[str], Clip]) -> None:
    calls: list[int] = []
    clip = clip_of("cut")
    assert [clip.once("test", lambda: calls.append(1) or 7) for _ in range(3)] == [7, 7, 7]
    assert calls == [1]


def _refusal(path: Path, **options: int) -> str:
    with pytest.raises(RefusedError) as caught:
        read_clip(path, **options)
    assert caught.value.code == "eval_clip_unreadable"
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def test_what_is_no_clip_is_refused_with_the_reason(tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    cut_off = tmp_path / "cut_off.mp4"
    cut_off.write_bytes((DATA / "clips/wide.mp4").read_bytes()[:900])
    sound = tmp_path / "sound.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "lavfi", "-i", "sine=d=1", str(sound)]
    subprocess.run(command, check=True)
    assert "it cannot be read: No such file" in _refusal(tmp_path / "none.mp4")
    assert "it cannot be decoded" in _refusal(text)
    assert _refusal(tmp_path) == "it must be a regular file; this is a folder"
    assert "it cannot be decoded" in _refusal(cut_off)
    assert _refusal(sound) == "it has no video stream"
    assert "need more than" in _refusal(DATA / "clips/wide.mp4", max_bytes=200_000)
