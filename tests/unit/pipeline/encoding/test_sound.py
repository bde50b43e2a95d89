"""The sound of a clip of several pieces: every sample where its frame is, in the file that is published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.encoding import join
from pipeline.encoding.ffmpeg import Sound
from pipeline.encoding.probe import probe, verify_sound
from pipeline.encoding.sound import Piece, add, decode, mix, sample_at
from pipeline.errors import RetryableError
from tests.unit.pipeline.encoding.test_join import encoded, pictures

RATE = 16_000
COUNTS = (25, 16, 17)
"""Frames that each segment adds."""
SEAM = 9
Samples = np.ndarray[Any, np.dtype[np.float32]]


def tune(fps: float, frames: int) -> Samples:
    """Two channels in which no stretch sounds like another: tones that rise, one faster than the other."""
    times = np.arange(sample_at(frames, fps, RATE)) / RATE
    waves = [np.sin(2 * np.pi * (300 * times + sweep * times**2)) for sweep in (60, 110)]
    return (np.stack(waves, axis=1) * 0.5).astype("<f4")


def pieces_of(whole: Samples, folder: Path, fps: float) -> list[Piece]:
    """The tune as segments make it: each but the first begins with the frames that it repeats."""
    found, begin = [], 0
    for number, count in enumerate(COUNTS):
        first = begin - (SEAM if number else 0)
        path = folder / f"{number}.sound"
        path.write_bytes(whole[sample_at(first, fps, RATE) : sample_at(begin + count, fps, RATE)].tobytes())
        found.append(Piece(path, first, RATE, 2))
        begin += count
    return found


@pytest.mark.parametrize("fps", [8, 29.97])
def test_the_published_track_has_every_sample_at_its_time(tmp_path: Path, fps: float) -> None:
    # Given three segments whose sounds are stretches of one tune
    videos, total = encoded(tmp_path, fps, counts=COUNTS), sum(COUNTS)
    whole = tune(fps, total)
    silent, mixed, out = tmp_path / "silent.mp4", tmp_path / "mixed", tmp_path / "out.mp4"
    join.join(videos, COUNTS, silent, metadata={})

    # When they are joined
    facts = mix(pieces_of(whole, tmp_path, fps), mixed, fps=fps, num_frames=total, check=lambda: None)
    add(silent, Sound(mixed, RATE, 2), out, metadata={"title": "雨"}, check=lambda: None, timeout_s=60)

    # Then they are the tune again, sample by sample
    assert facts["num_samples"] == len(whole)
    assert np.allclose(np.fromfile(mixed, "<f4").reshape(-1, 2), whole, atol=1e-6)
    # And so is what a player decodes, from the first stretch to the last: no gap, nothing twice, no drift
    raw = tmp_path / "heard"
    assert decode(out, raw, fps=fps, num_frames=total, check=lambda: None) == (RATE, 2)
    heard = np.fromfile(raw, "<f4").reshape(-1, 2)
    assert heard.shape == whole.shape
    seams = [sample_at(sum(COUNTS[:number]), fps, RATE) for number in (1, 2)]
    for middle in (700, *seams, len(whole) - 700):
        assert [shift_of(heard, whole, middle, channel) for channel in (0, 1)] == [0, 0]
    assert np.sqrt(np.mean((heard - whole) ** 2)) < 0.02
    # And the pictures are those of before, at their times
    assert pictures(out) == pictures(silent)
    join.check_seams(out, COUNTS)
    verify_sound(probe(out), duration_s=len(whole) / RATE)
    with av.open(str(out)) as container:
        assert container.metadata["title"] == "雨"


def shift_of(heard: Samples, whole: Samples, middle: int, channel: int) -> int:
    """By how many samples a stretch around ``middle`` is heard too late: where it fits best."""
    stretch = whole[middle - 500 : middle + 500, channel]
    places = range(-100, 101)
    found = [
        float(np.dot(heard[begin : begin + 1000, channel], stretch))
        if (begin := middle - 500 + shift) >= 0 and begin + 1000 <= len(heard)
        else -np.inf
        for shift in places
    ]
    return places[int(np.argmax(found))]


def test_the_bytes_depend_on_nothing_else(tmp_path: Path) -> None:
    (video,) = encoded(tmp_path, counts=(9,))
    raw = tmp_path / "raw"
    raw.write_bytes(tune(8, 9).tobytes())
    for out in (tmp_path / "a.mp4", tmp_path / "b.mp4"):
        add(video, Sound(raw, RATE, 2), out, metadata={"title": "x"}, check=lambda: None, timeout_s=60)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_two_sounds_of_one_seam_fade_over_and_what_none_covers_is_silent(tmp_path: Path) -> None:
    low, high, out = tmp_path / "low", tmp_path / "high", tmp_path / "out"
    low.write_bytes(np.full((40, 1), 0.25, "<f4").tobytes())
    high.write_bytes(np.full((30, 1), 0.75, "<f4").tobytes())

    # Ten samples a frame: from frame 1 to 5, and from 4 to 7, of eight frames
    facts = mix([Piece(low, 1, 80, 1), Piece(high, 4, 80, 1)], out, fps=8, num_frames=8, check=lambda: None)

    made = np.fromfile(out, "<f4")
    assert facts["num_samples"] == len(made) == 80
    assert not made[:10].any()
    assert np.all(made[10:40] == 0.25)
    assert np.all(np.diff(made[39:51]) > 0), "from the one to the other, without a step back or a jump"
    assert np.all(made[50:70] == 0.75)
    assert not made[70:].any()


def test_what_a_part_repeats_is_cut_and_other_rates_are_not_mixed(tmp_path: Path) -> None:
    path, out = tmp_path / "raw", tmp_path / "out"
    path.write_bytes(np.arange(40, dtype="<f4").tobytes())
    mix([Piece(path, -1, 80, 1)], out, fps=8, num_frames=3, check=lambda: None)
    assert np.fromfile(out, "<f4").tolist() == list(range(10, 40))
    with pytest.raises(RetryableError, match="several rates") as caught:
        mix([Piece(path, 0, 80, 1), Piece(path, 3, 160, 1)], out, fps=8, num_frames=6, check=lambda: None)
    assert caught.value.code == "encode_mismatch"
