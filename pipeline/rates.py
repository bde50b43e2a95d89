"""Frames a second: what an MP4 can say of them, as a fraction, and what people write."""

import math
import re
from fractions import Fraction

MAX_FPS = 240
_NTSC = Fraction(1000, 1001)
_FRACTION = re.compile(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*")
_SNAPPED = (120, 240)
"""Rates that readers round to: FFmpeg takes what is within one percent of them for them."""


def rational_fps(fps: float) -> Fraction:
    """Frames a second as a fraction: 29.97 and its like are what they stand for, 30000/1001."""
    base = round(fps)
    # 29.97 is 0.00003 off, 23.98 is 0.004 off
    if base % 6 == 0 and base and abs(fps - base * 1000 / 1001) < 0.006:
        return base * _NTSC
    return Fraction(fps).limit_denominator(1001)


def parse_fraction(text: str) -> float | None:
    """The number that text such as ``30000/1001`` stands for; None where it is of another form."""
    match = _FRACTION.fullmatch(text)
    return int(match[1]) / int(match[2]) if match and int(match[2]) else None


def check_rate(fps: float) -> float:
    """The rate, where an MP4 can carry it and readers take it for what it is.

    Raises:
        ValueError: the sentence, with the nearest right values.
    """
    # An int may be too large for float(); comparing it is exact.
    if isinstance(fps, float) and math.isnan(fps):
        raise ValueError("nan is not a number over 0 and at most 240: use 24 or 30000/1001")
    if not 0 < fps <= MAX_FPS:
        near = "1 or more" if fps <= 0 else f"{MAX_FPS} or less"
        raise ValueError(f"{_shown(fps)} is not a number over 0 and at most {MAX_FPS}: use {near}")
    rate = rational_fps(float(fps))
    if rate == 0 or abs(float(rate) / fps - 1) > 0.01:
        raise ValueError(f"{_shown(fps)} is not a valid rate for MP4: use 1/1001 or more")
    near_by = next((snapped for snapped in _SNAPPED if abs(rate / snapped - 1) < Fraction(1, 100)), None)
    if near_by is not None and rate.denominator not in (1, 1001):
        raise ValueError(f"{_shown(fps)} is not a valid rate for MP4: use {near_by} or {near_by}000/1001")
    return float(fps)


def _shown(fps: float) -> str:
    return f"{fps:g}" if isinstance(fps, float) else (str(fps) if abs(fps) < 10**12 else "a number of many digits")
