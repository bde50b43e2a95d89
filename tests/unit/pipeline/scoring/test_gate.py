from __future__ import annotations

import pytest

from pipeline.errors import InputError
from pipeline.scoring import Score, gate, not_scored

METRICS = ("checks", "vbench.imaging_quality")


def _why(rule: str, **scores: Score) -> str | None:
    by_name = {name.replace("__", "."): score for name, score in scores.items()}
    return gate.rejection_reasons(gate.parse([rule], METRICS), by_name)


def test_a_failed_check_breaks_the_rule_of_its_name_and_of_its_group() -> None:
    black, length = Score(0.5, passed=False), Score(9, passed=True)

    assert _why("checks.black", checks__black=black) == "checks.black failed with 0.5"
    assert _why("checks", checks__black=black, checks__length=length) == "checks.black failed with 0.5"
    assert _why("checks.length", checks__black=black, checks__length=length) is None


def test_a_check_that_had_nothing_to_say_breaks_nothing() -> None:
    assert _why("checks", checks__loudness=not_scored("the clip has no sound")) is None


@pytest.mark.parametrize(
    ("rule", "kept"),
    [(">=50", True), (">= 50.5", False), ("<=50", True), ("<50", False), (">50", False), (">49.9", True)],
)
def test_a_bound_is_compared(rule: str, kept: bool) -> None:
    why = _why(f"vbench.imaging_quality{rule}", vbench__imaging_quality=Score(50.0))

    assert why == (None if kept else f"vbench.imaging_quality{rule}: it is 50")


def test_a_bound_on_what_was_not_scored_is_not_kept() -> None:
    why = _why("vbench.imaging_quality>=1", vbench__imaging_quality=not_scored("it is too small"))

    assert why == "vbench.imaging_quality>=1: not scored (it is too small)"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("checks.blak", "'checks.blak' is not a metric or a group; did you mean checks.black"),
        ("vbench.imaging_quality", "is not a check; give a bound, such as NAME>=0.5"),
        ("vbench.imaging_quality>=high", "'high' is not a number"),
        ("vbench.imaging_quality>=nan", "'nan' is not a number"),
        ("vbench.dynamic_degree>=1", "vbench.dynamic_degree is not among the metrics of --score"),
        ("checks>=1", "checks is a group; a bound is for one metric"),
    ],
)
def test_what_is_no_rule_is_said(rule: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        gate.parse([rule], METRICS)

    assert message in str(caught.value)


def test_metrics_that_cannot_be_scored_within_the_line_are_refused_by_name_and_left_out_of_groups() -> None:
    for name, message in (("vbench.color", "another program"), ("common.psnr", "reference"), ("common", "nothing")):
        with pytest.raises(InputError, match=message):
            gate.check_metrics([name])

    assert "vbench.color" not in {metric.name for metric in gate.check_metrics(["vbench"])}
