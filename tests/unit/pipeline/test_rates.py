"""Frames a second: what people write, what an MP4 can say, and that a file says what was asked for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipeline.encoding.ffmpeg import encode
from pipeline.encoding.probe import probe, verify
from pipeline.errors import InputError
from pipeline.prompts import parse_bytes
from pipeline.rates import rational_fps
from pipeline.settings import load_settings
from pipeline.spec import EncodeOptions


def read(value: str, name: str = "p.jsonl") -> float:
    """The rate of a job whose line has that text for ``fps``: JSON, or an option in a text file."""
    text = f'{{"prompt": "x", "preset": "idle", "fps": {value}}}' if name == "p.jsonl" else f"x --fps {value}\n"
    settings = load_settings(preset="idle")
    return parse_bytes(text.encode(), name, overrides={}, settings=settings).jobs[0].spec.fps


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("120.5", "120.5 is not a valid rate for MP4: use 120 or 120000/1001"),
        ("119.3", "119.3 is not a valid rate for MP4: use 120 or 120000/1001"),
        ("239.9", "239.9 is not a valid rate for MP4: use 240 or 240000/1001"),
        ("0.0001", "0.0001 is not a valid rate for MP4: use 1/1001 or more"),
        ("0", "0 is not a number over 0 and at most 240: use 1 or more"),
        ("-1", "-1 is not a number over 0 and at most 240: use 1 or more"),
        ("240.5", "240.5 is not a number over 0 and at most 240: use 240 or less"),
        ("NaN", "nan is not a number over 0 and at most 240"),
        ("Infinity", "inf is not a number over 0 and at most 240: use 240 or less"),
        ("9" * 401, "a whole number of 401 digits is not allowed; whole numbers have at most 40 digits"),
        ("1e308", "1e+308 is not a number over 0"),
        ('"24/0"', "'24/0' is not a number over 0"),
        ('"fast"', "'fast' is not a number over 0"),
        ("true", "True is not a number over 0"),
        ("[24]", "[24] is not a number over 0"),
    ],
)
def test_a_rate_that_no_file_can_have_is_refused_with_the_nearest(value: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        read(value)
    (problem,) = caught.value.problems
    assert (problem.field, problem.line) == ("fps", 1)
    assert problem.message.startswith(sentence)


@pytest.mark.parametrize("field", ["fps", "seconds", "guidance_scale", "num_frames", "width"])
@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), float("inf")])
def test_numbers_without_end_are_refused_in_every_field(field: str, value: float) -> None:
    line = json.dumps({"prompt": "x", "preset": "idle", field: value})
    with pytest.raises(InputError) as caught:
        parse_bytes(line.encode(), "p.jsonl", overrides={}, settings=load_settings())
    assert {problem.field for problem in caught.value.problems} == {field}


@pytest.mark.parametrize(
    ("value", "rate"),
    [
        ("24", "24"),
        ("23.976", "24000/1001"),
        ("29.97", "30000/1001"),
        ('"30000/1001"', "30000/1001"),
        ('"120000/1001"', "120000/1001"),
        ("119.88", "120000/1001"),
        ("12.5", "25/2"),
        ("16.25", "65/4"),
        ("121", "121"),
        ("1.001", "1001/1000"),
        ("240", "240"),
    ],
)
def test_a_file_has_the_rate_that_was_asked_for(tmp_path: Path, value: str, rate: str) -> None:
    # Given so many frames that one would be lost were the rate taken for another near by
    fps, count, side = read(value), 400, 16
    frames, clip = tmp_path / "frames.rgb", tmp_path / "clip.mp4"
    frames.write_bytes(os.urandom(side * side * 3) * count)
    sizes = {"width": side, "height": side, "num_frames": count, "fps": fps}

    encode(frames, clip, **sizes, options=EncodeOptions(), metadata={}, check=lambda: None, timeout_s=60)  # type: ignore[arg-type]

    facts = probe(clip)
    verify(facts, **sizes)  # type: ignore[arg-type]
    assert (facts.fps, str(rational_fps(fps))) == (rate, rate)


def test_a_text_file_and_the_command_line_take_fractions_too() -> None:
    assert read("30000/1001", "p.txt") == 30000 / 1001
