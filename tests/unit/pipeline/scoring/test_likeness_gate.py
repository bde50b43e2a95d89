"""Likeness to the baseline's clips as a gated metric, and scores that do not differ at all."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import InputError, NotFoundError
from pipeline.scoring import METRICS, Clip
from pipeline.scoring.compare import Comparison, Key, Run, RunClip, State, compare, read_margins
from pipeline.scoring.compare.html import html
from pipeline.scoring.compare.report import Report, rows
from pipeline.scoring.compare.strips import difference_strip, strips_of_worst
from pipeline.scoring.metric import Score, not_scored

SSIM, LPIPS, QUALITY = METRICS["common.ssim"], METRICS["common.lpips"], METRICS["vbench.imaging_quality"]


def _night(values: list[float | None], name: str = "common.ssim", **details: object) -> Run:
    """A clip of each prompt; None is a clip that could not be compared."""
    clips = {}
    for entry, value in enumerate(values):
        score = not_scored("the reference cannot be read") if value is None else Score(value, details=details)
        clips[Key(entry, 1)] = RunClip(f"{entry}.mp4", {name: score})
    return Run("night", clips)


def _judged(values: list[float | None], bound: str = "common.ssim>=0.95") -> Comparison:
    margins = read_margins([bound], "margin")
    (name,) = margins
    baseline = Run("baseline", {Key(entry, 1): RunClip(f"b{entry}.mp4", {}) for entry in range(len(values))})
    return compare(baseline, _night(values, name), [METRICS[name]], margins)


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ([0.99, 0.98, 0.985, 0.99, 0.97, 0.98], State.OK),
        ([0.90, 0.88, 0.91, 0.85, 0.90, 0.89], State.REGRESSED),
        ([0.99, 0.90, 0.95, 0.99, 0.90, 0.94], State.INCONCLUSIVE),
        ([1.0, 1.0], State.OK),
        ([1.0], State.OK),
        ([0.99], State.NO_CALIBRATION),
        ([0.99, None, 0.98, 0.99, 0.98, 0.99], State.INCOMPLETE),
    ],
)
def test_a_bound_gates_the_mean_over_prompts(values: list[float | None], state: State) -> None:
    found = _judged(values)

    assert (found.state, found.metrics[0].state) == (state, state)
    if values[-1] is not None and None not in values:
        assert found.metrics[0].baseline == 1.0
        assert found.metrics[0].candidate == pytest.approx(np.mean([value for value in values if value is not None]))
    else:
        assert found.metrics[0].reason == (
            "1 clips could not be compared with the baseline's: the reference cannot be read"
        )


def test_a_distance_is_bounded_from_above() -> None:
    assert _judged([0.01, 0.02, 0.01, 0.02, 0.01, 0.02], "common.lpips<=0.05").state is State.OK
    worse = _judged([0.1, 0.2, 0.1, 0.2, 0.1, 0.2], "common.lpips<=0.05")
    assert worse.state is State.REGRESSED
    assert rows(worse.metrics)[0][6] == "≤ 0.05"


def test_the_clip_that_scores_were_made_with_is_no_part_of_the_scorer() -> None:
    scores = [Score(0.99 + n / 1000, details={"scorer": {"version": 1, "reference": f"{n}"}}) for n in range(6)]
    after = Run("night", {Key(n, 1): RunClip("", {SSIM.name: score}) for n, score in enumerate(scores)})
    before = Run("baseline", {key: RunClip("", {}) for key in after.clips})
    assert compare(before, after, [SSIM], {SSIM.name: 0.05}).state is State.OK
    mixed = replace(scores[0], details={"scorer": {"version": 2}})
    after = replace(after, clips={**after.clips, Key(0, 1): RunClip("", {SSIM.name: mixed})})
    assert compare(before, after, [SSIM], {SSIM.name: 0.05}).state is State.OTHER_FINGERPRINT


@pytest.mark.parametrize("prompts", [1, 2, 5, 40])
def test_equal_scores_pass_however_many_prompts_there_are(prompts: int) -> None:
    before = _night([70.0 + entry for entry in range(prompts)], QUALITY.name)
    for margin in (0.0, 1.0):
        found = compare(before, replace(before, name="again"), [QUALITY], {QUALITY.name: margin})
        assert (found.state, found.metrics[0].state) == (State.OK, State.OK)
        estimate = found.metrics[0].estimate
        assert estimate is not None
        assert (estimate.method, estimate.mean) == ("equal", 0.0)


def test_one_prompt_that_differs_says_nothing_of_the_spread() -> None:
    found = compare(_night([70.0], QUALITY.name), _night([60.0], QUALITY.name), [QUALITY], {QUALITY.name: 1.0})
    assert found.state is State.NO_CALIBRATION
    assert found.metrics[0].reason == "one prompt says nothing of the spread over prompts: take two or more"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("common.ssim<=0.98", "higher is better: write common.ssim>=VALUE"),
        ("common.lpips>=0.1", "lower is better: write common.lpips<=VALUE"),
        ("common.psnr>=140", "two equal clips have a score of 100, so that no clip can reach 140"),
        ("vbench.imaging_quality>=50", "write vbench.imaging_quality=LARGEST_LOSS"),
        ("common.ssim>=nan", "a margin is NAME=VALUE, where VALUE is a number"),
        ("common.ssim>=", "a margin is NAME=VALUE, where VALUE is a number"),
        ("common.ssim=0.1=2", "'common.ssim=0.1=2' is not a metric"),
        ("common.simm>=0.9", "'common.simm' is not a metric"),
    ],
)
def test_a_bound_that_cannot_be_is_said(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        read_margins([text], "--margin")


def test_margins_of_bounds() -> None:
    texts = ["common.psnr>=40", "common.lpips<=0.05", "common.ssim=0.02", "vbench.imaging_quality=1"]
    assert read_margins(texts, "--margin") == pytest.approx(
        {"common.psnr": 60.0, "common.lpips": 0.05, "common.ssim": 0.02, "vbench.imaging_quality": 1.0}
    )


def _clip(value: int, shape: tuple[int, ...] = (8, 40, 80, 3)) -> Clip:
    return Clip(Path("a"), np.full(shape, value, np.uint8), None, has_audio=False)


def test_the_strip_shows_both_clips_and_how_far_they_are_apart() -> None:
    data = difference_strip(_clip(100), _clip(110))
    assert data is not None
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (6 * 160, 3 * 80)
        column = [picture.convert("RGB").getpixel((80, row)) for row in (40, 120, 200)]
    assert np.allclose(column, [[100] * 3, [110] * 3, [40] * 3], atol=3)
    assert difference_strip(_clip(100), _clip(100, (8, 40, 82, 3))) is None
    assert difference_strip(_clip(100, (1, 40, 80, 3)), _clip(0, (1, 40, 80, 3))) is not None


def test_the_report_shows_the_strips_of_the_worst_clips_that_can_be_read() -> None:
    compared = _judged([0.90, 0.88, 0.91, 0.85, 0.90, 0.89])

    def read(key: Key) -> tuple[Clip, Clip]:
        if key.entry == 3:
            raise NotFoundError("no such clip")
        return _clip(100), _clip(110)

    strips = strips_of_worst(compared, read)

    assert sorted(key.entry for key in strips) == [0, 1, 4, 5]  # of the five worst, all but one that is gone
    page = html(Report(compared, strips=strips))
    assert page.count('src="data:image/jpeg;base64,') == 4
    assert page.count("<video") == 10
