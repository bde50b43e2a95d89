"""Reference metrics, against pytorch-msssim's numbers and by definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.scoring import METRICS, Clip, Context, Models

CONTEXT = Context(Models())
TOLERANCE = 5e-6
"""Theirs has its window in single precision."""


@pytest.mark.parametrize("name", ["large", "cut", "odd_sizes", "static", "one_frame"])
def test_similarity_is_that_of_the_published_implementation(
    name: str, oracle: dict[str, Any], clip_of: Callable[[str], Clip]
) -> None:
    clip = clip_of(name)
    context = replace(CONTEXT, reference=replace(clip, frames=clip.frames[::-1]))
    wanted = oracle["dimensions"]["reversed"][name]
    assert METRICS["common.ssim"].score(clip, context).score == pytest.approx(wanted["ssim"], abs=TOLERANCE)
    found = METRICS["common.ms_ssim"].score(clip, context)
    if wanted["ms_ssim"] is None:
        assert "needs at least 161 pixels a side" in (found.reason or "")
    else:
        assert found.score == pytest.approx(wanted["ms_ssim"], abs=TOLERANCE)


def test_psnr_by_definition() -> None:
    frames = np.full((3, 20, 20, 3), 100, np.uint8)
    clip = Clip(Path("a"), frames, None, has_audio=False)
    other = replace(clip, frames=frames + np.uint8(5))
    assert METRICS["common.psnr"].score(clip, replace(CONTEXT, reference=other)).score == pytest.approx(
        10 * np.log10(255**2 / 25)
    )
    assert METRICS["common.psnr"].score(clip, replace(CONTEXT, reference=clip)).score == 100.0


@pytest.mark.parametrize("metric", ["common.psnr", "common.ssim", "common.ms_ssim"])
def test_a_reference_of_another_size_or_length_is_refused(metric: str) -> None:
    clip = Clip(Path("a"), np.zeros((3, 180, 200, 3), np.uint8), None, has_audio=False)
    for other in (clip.frames[:2], clip.frames[:, :170]):
        found = METRICS[metric].score(clip, replace(CONTEXT, reference=replace(clip, frames=other)))
        assert found.score is None
        assert "the clip has 3 frames of 200x180, its reference" in (found.reason or "")
