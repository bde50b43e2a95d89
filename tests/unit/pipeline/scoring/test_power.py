"""What a suite can tell before it is run."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.scoring import METRICS
from pipeline.scoring.compare.power import detectable, sentences
from pipeline.scoring.compare.statistics import detectable_deviations, estimate
from pipeline.scoring.suite import OWN_SUITE, read_suite

QUALITY, ACTION, SSIM = (METRICS[name] for name in ("vbench.imaging_quality", "vbench.human_action", "common.ssim"))


@pytest.mark.parametrize("prompts", [2, 12, 40, 80])
def test_it_is_what_a_night_says_of_differences_with_a_deviation_of_one(prompts: int) -> None:
    values = np.random.default_rng(prompts).standard_normal(prompts)
    values = (values - values.mean()) / values.std(ddof=1)
    found = estimate(values, -1.0, tests=3)
    assert found is not None
    assert detectable_deviations(prompts, tests=3) == pytest.approx(found.detectable)


def test_a_loss_of_that_size_is_found_about_eight_times_of_ten() -> None:
    random = np.random.default_rng(0)
    # Below 32 prompts there is no bootstrap, so it is quick.
    nights = random.standard_normal((400, 31)) - detectable_deviations(31)
    found = [estimate(night, 0.0) for night in nights]
    share = np.mean([one is not None and one.p_worse < 0.025 for one in found])
    assert 0.74 < share < 0.86


def test_a_suite_says_what_its_prompts_show() -> None:
    rows = detectable(read_suite(OWN_SUITE), [QUALITY, ACTION, SSIM], {SSIM.name: 0.02})
    assert [(row.metric.dimension, row.prompts, row.gated) for row in rows] == [
        ("ssim", 80, True), ("imaging_quality", 80, False), ("human_action", 40, False),
    ]  # fmt: skip
    found = "detect a loss that exceeds the margin by {} standard deviations."
    *lines, explained = sentences(rows)
    assert lines == [
        f"common.ssim (gated): 80 prompts {found.format('0.32')}",
        f"vbench.imaging_quality (not gated): 80 prompts {found.format('0.32')}",
        f"vbench.human_action (not gated): 40 prompts {found.format('0.45')}",
    ]
    assert "found in 8 of 10 nights" in explained


def test_a_metric_of_a_dimension_counts_the_entries_of_that_dimension_alone() -> None:
    suite, filtered = read_suite(OWN_SUITE), METRICS["vbench_tools.static_filter"]
    prompts = {
        metric.name: detectable(suite, [metric], {})[0].prompts
        for metric in (METRICS["vbench_long.human_action"], filtered, METRICS["motion.warp_error"])
    }
    assert prompts == {
        "vbench_long.human_action": 40,
        filtered.name: sum("temporal_flickering" in entry.dimensions for entry in suite.entries),
        "motion.warp_error": 80,
    }


def test_too_few_prompts_are_said() -> None:
    suite = read_suite(OWN_SUITE)
    few = type(suite)(suite.entries[:1], suite.sha256)
    assert sentences(detectable(few, [SSIM], {})) == [
        "common.ssim (not gated): 1 prompts are too few to detect any loss."
    ]
    few = type(suite)(suite.entries[:5], suite.sha256)
    assert "5 prompts (fewer than the 40 recommended) detect" in sentences(detectable(few, [SSIM], {}))[0]
