"""Checks without weights, cheap enough for every clip. Each has a threshold and says pass or fail.

Thresholds for black and still pictures are those of FFmpeg's ``blackdetect`` and ``freezedetect``.
"""

import math
import re
import subprocess

import numpy as np
from numpy.typing import NDArray

from pipeline.media.opening import ffmpeg_input, ffmpeg_program
from pipeline.scoring.clip import Clip
from pipeline.scoring.metric import Context, Direction, Metric, Score, not_scored

BLACK_PIXEL = 0.10 * 255
"""A pixel is black up to this luma (blackdetect's pixel_black_th)."""
BLACK_PICTURE = 0.98
"""A frame is black from this share of black pixels on (blackdetect's picture_black_ratio_th)."""
MAX_BLACK = 0.1
STILL_DIFFERENCE = 0.001
"""Two frames are the same picture up to this mean difference, of 1 (freezedetect's noise, -60 dB)."""
MAX_STILL = 0.5
MAX_FLICKER = 0.02
MAX_DUPLICATES = 0.2
FPS_TOLERANCE = 0.005
LOUDNESS_RANGE = (-40.0, -5.0)
"""LUFS: below is as good as silent (EBU R 128 asks for -23), above is distorted."""
_LOUDNESS_TIMEOUT_S = 120.0
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def luma(clip: Clip) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each frame's mean BT.601 luma, 0..255, and its share of black pixels; both (frames,)."""

    def make() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        planes = (frame.astype(np.float32) @ _LUMA for frame in clip.frames)  # one at a time: frames may be large
        facts = [(plane.mean(dtype=np.float64), np.mean(plane <= BLACK_PIXEL)) for plane in planes]
        means, shares = np.array(facts, dtype=np.float64).T
        return means, shares

    return clip.once("luma", make)


def differences(clip: Clip) -> NDArray[np.float64]:
    """Mean absolute difference of each frame to the next, 0..255, over all pixels and channels; (frames - 1,)."""

    def make() -> NDArray[np.float64]:
        pairs = zip(clip.frames[:-1], clip.frames[1:], strict=True)
        return np.array([np.mean(np.abs(a.astype(np.int16) - b), dtype=np.float64) for a, b in pairs])

    return clip.once("differences", make)


def black(clip: Clip, _context: Context) -> Score:
    _, shares = luma(clip)
    score = float(np.mean(shares >= BLACK_PICTURE))
    return Score(score, passed=score <= MAX_BLACK, details={"limit": MAX_BLACK})


def frozen(clip: Clip, _context: Context) -> Score:
    if len(clip.frames) < 2:
        return not_scored("needs at least 2 frames; this clip has 1")
    still = differences(clip) / 255 <= STILL_DIFFERENCE
    score = float(np.mean(still))
    return Score(score, passed=score <= MAX_STILL, details={"limit": MAX_STILL, "longest_run": _longest_run(still)})


def flicker(clip: Clip, _context: Context) -> Score:
    """Return how much brightness jumps to and fro: mean second difference of the frames' mean luma."""
    if len(clip.frames) < 3:
        return not_scored(f"needs at least 3 frames; this clip has {len(clip.frames)}")
    brightness, _ = luma(clip)
    score = float(np.mean(np.abs(np.diff(brightness, n=2)))) / 255
    return Score(score, passed=score <= MAX_FLICKER, details={"limit": MAX_FLICKER})


def duplicate_frames(clip: Clip, _context: Context) -> Score:
    if len(clip.frames) < 2:
        return not_scored("needs at least 2 frames; this clip has 1")
    score = float(np.mean(differences(clip) == 0))
    return Score(score, passed=score <= MAX_DUPLICATES, details={"limit": MAX_DUPLICATES})


def length(clip: Clip, context: Context) -> Score:
    expected = context.expected.num_frames
    if expected is None:
        return not_scored("no number of frames was asked for", frames=len(clip.frames))
    count = len(clip.frames)
    return Score(float(count), passed=count == expected, details={"wanted": expected})


def fps(clip: Clip, context: Context) -> Score:
    expected = context.expected.fps
    if clip.fps is None:
        return not_scored("the file does not say its frame rate")
    if expected is None:
        return not_scored("no frame rate was asked for", fps=float(clip.fps))
    rate = float(clip.fps)
    return Score(rate, passed=abs(rate - expected) <= FPS_TOLERANCE * expected, details={"wanted": expected})


def size(clip: Clip, context: Context) -> Score:
    """1.0 for the size that was asked for, else 0.0: as the clip is shown, upright and with square pixels."""
    expected = (context.expected.width, context.expected.height)
    shown_size = (clip.shown_width, clip.height)
    if None in expected:
        return not_scored("no size was asked for", size=list(shown_size))
    return Score(
        float(shown_size == expected),
        passed=shown_size == expected,
        details={"size": list(shown_size), "wanted": list(expected)},
    )


def loudness(clip: Clip, _context: Context) -> Score:
    """Integrated loudness in LUFS (EBU R 128), measured by FFmpeg."""
    if not clip.has_audio:
        return not_scored("the clip has no sound")
    command = [ffmpeg_program(), "-hide_banner", "-nostats", *ffmpeg_input(clip.path)]
    command += ["-vn", "-af", "ebur128=framelog=quiet", "-f", "null", "-"]
    try:
        process = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_LOUDNESS_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C and a closing terminal are for us to hear and to answer
        )
    except subprocess.TimeoutExpired:
        return not_scored(f"FFmpeg took over {_LOUDNESS_TIMEOUT_S:g} s to measure the loudness")
    readings = re.findall(r"I:\s+(-?[\d.]+|-inf) LUFS", process.stderr)
    if process.returncode != 0 or not readings:
        last = process.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        return not_scored(f"FFmpeg could not measure the loudness: {last[0]}")
    value = float(readings[-1])
    if not math.isfinite(value):
        return not_scored("the sound is too short to measure, or wholly silent")
    low, high = LOUDNESS_RANGE
    return Score(value, passed=low <= value <= high, details={"limit": list(LOUDNESS_RANGE)})


def _longest_run(flags: NDArray[np.bool_]) -> int:
    longest = run = 0
    for flag in flags:
        run = run + 1 if flag else 0
        longest = max(longest, run)
    return longest


CHECKS = (
    Metric("checks.black", "share of black frames", black, direction=Direction.LOWER),
    Metric("checks.frozen", "share of frames that stand still", frozen, direction=Direction.LOWER),
    Metric("checks.flicker", "jumps of brightness", flicker, direction=Direction.LOWER),
    Metric(
        "checks.duplicate_frames",
        "share of frames equal to the one before",
        duplicate_frames,
        direction=Direction.LOWER,
    ),
    Metric("checks.length", "frames, against those asked for", length, high=None),
    Metric("checks.fps", "frames a second, against those asked for", fps, high=None),
    Metric("checks.size", "whether the size is the one asked for", size),
    Metric("checks.loudness", "loudness in LUFS (EBU R 128)", loudness, low=None, high=None),
)
