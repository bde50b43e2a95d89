"""The checks, each on a clip that passes and one that does not."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from pipeline.scoring import METRICS, Clip, Context, Expected, Models, Score, read_clip

RANDOM = np.random.RandomState(3)
NOISE = RANDOM.randint(60, 200, (12, 32, 48, 3)).astype(np.uint8)


def clip(frames: np.ndarray, fps: Fraction | None = Fraction(24)) -> Clip:
    return Clip(Path("made.mp4"), frames.astype(np.uint8), fps, has_audio=False)


def check(name: str, frames: np.ndarray, expected: Expected = Expected()) -> Score:  # noqa: B008 - frozen
    return METRICS[f"checks.{name}"].score(clip(frames), Context(Models(), expected=expected))


def half(frames: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.concatenate([frames[:6], other[:6]])


def test_black_frames_are_counted() -> None:
    assert check("black", NOISE).score == 0.0
    found = check("black", half(NOISE, np.full_like(NOISE, 12)))
    assert (found.score, found.passed) == (0.5, False)
    nearly = np.full_like(NOISE, 12)
    nearly[:, :2] = 200  # a sixteenth of each picture is bright
    assert check("black", nearly).passed is True


def test_a_picture_that_stands_still_is_frozen_even_if_its_bytes_differ() -> None:
    shimmer = np.repeat(NOISE[:1], 12, axis=0)
    shimmer[1::2, 0, 0] += 1
    assert check("frozen", NOISE).passed is True
    found = check("frozen", shimmer)
    assert (found.score, found.passed, found.details["longest_run"]) == (1.0, False, 11)
    assert check("duplicate_frames", shimmer).passed is True


def test_repeated_frames_are_duplicates() -> None:
    found = check("duplicate_frames", np.repeat(NOISE[:4], 3, axis=0))
    assert found.score == pytest.approx(8 / 11)
    assert found.passed is False


def test_flicker_is_brightness_to_and_fro_and_not_a_fade() -> None:
    steps = np.arange(12)
    fade = np.full((12, 8, 8, 3), 40) + (steps * 15)[:, None, None, None]
    jumps = np.full((12, 8, 8, 3), 100) + (steps % 2 * 20)[:, None, None, None]
    assert check("flicker", fade).score == pytest.approx(0, abs=1e-6)
    found = check("flicker", jumps)
    assert found.score == pytest.approx(40 / 255, rel=1e-5)
    assert found.passed is False


def test_length_rate_and_size_are_compared_with_what_was_asked_for() -> None:
    asked = Expected(num_frames=12, fps=24, width=48, height=32)
    assert [check(name, NOISE, asked).passed for name in ("length", "fps", "size")] == [True, True, True]
    other = Expected(num_frames=13, fps=23.0, width=32, height=48)
    assert [check(name, NOISE, other).passed for name in ("length", "fps", "size")] == [False, False, False]
    assert [check(name, NOISE).score for name in ("length", "fps", "size")] == [None, None, None]
    ntsc = METRICS["checks.fps"].score(
        clip(NOISE, Fraction(30000, 1001)), Context(Models(), expected=Expected(fps=29.97))
    )
    assert ntsc.passed is True


@pytest.mark.parametrize(("name", "least"), [("frozen", 2), ("duplicate_frames", 2), ("flicker", 3)])
def test_too_few_frames_are_not_scored(name: str, least: int) -> None:
    found = check(name, NOISE[: least - 1])
    assert (found.score, found.passed) == (None, None)
    assert f"needs at least {least} frames" in (found.reason or "")


def test_loudness_is_measured_by_ebu_r128(tmp_path: Path) -> None:
    def made(level: float) -> Score:
        path = tmp_path / f"{level}.mp4"
        sound = f"aevalsrc={level}*sin(2*PI*1000*t):s=48000:d=2"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "lavfi", "-i", sound]
        command += ["-f", "lavfi", "-i", "color=gray:s=32x32:d=2:r=8", "-c:a", "flac", "-strict", "-2", str(path)]
        subprocess.run(command, check=True)
        return METRICS["checks.loudness"].score(read_clip(path), Context(Models()))

    # A mono sine of 1 kHz at full scale is -3.01 LUFS by the standard; a tenth is 20 less.
    assert made(0.1).score == pytest.approx(-23.0, abs=0.15)
    assert made(0.1).passed is True
    assert made(0.001).passed is False
    silent = METRICS["checks.loudness"].score(clip(NOISE), Context(Models()))
    assert silent.reason == "the clip has no sound"
