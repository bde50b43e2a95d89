"""Every native dimension against the official code's own scores of the same clips with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.scoring import METRICS, Clip, Context, Models, Weights
from pipeline.scoring.dimensions import is_static
from pipeline.scoring.kinetics import KINETICS_400
from pipeline.scoring.run import ClipToScore, score_clips
from tests.data.vbench_oracle.make_i2v_oracle import write_picture
from tests.unit.pipeline.scoring.conftest import DATA

TOLERANCE = 1e-6
CLIPS = (
    "black", "cut", "fast", "large", "noise", "ntsc", "odd_sizes", "odd_tall", "one_frame", "seven_frames", "square",
    "static", "tall", "three_frames", "two_frames", "wide",
)  # fmt: skip
FLOW_CLIPS = ("black", "large", "one_frame", "odd_sizes", "odd_tall", "square", "three_frames", "two_frames")
"""A flow takes long: bench/scoring.py --oracle compares the others too."""
FEWER = {"imaging_quality": ("black", "large", "odd_sizes", "one_frame", "two_frames")}
"""Where a frame takes long, for the same reason."""

ClipOf = Callable[[str], Clip]


@pytest.fixture
def score(oracle: dict[str, Any], models: Models, clip_of: ClipOf) -> Callable[[str, str], Any]:
    def call(metric: str, name: str) -> Any:
        auxiliary = {"appearance_style": oracle["styles"][name]}
        return METRICS[metric].score(clip_of(name), Context(models, oracle["prompts"][name], auxiliary=auxiliary))

    return call


@pytest.mark.parametrize(
    "dimension",
    [
        "temporal_flickering",
        "subject_consistency",
        "background_consistency",
        "aesthetic_quality",
        "imaging_quality",
        "appearance_style",
        "temporal_style",
        "overall_consistency",
    ],
)
def test_scores_are_the_official_ones(dimension: str, oracle: dict[str, Any], score: Any) -> None:
    official = oracle["dimensions"][dimension]
    assert sorted(official) == sorted(CLIPS)
    for name in FEWER.get(dimension, CLIPS):
        wanted, found = official[name], score(f"vbench.{dimension}", name)
        if isinstance(wanted, dict):  # the official code failed, or gave no number
            assert (found.score, name) == (None, "one_frame")
            assert found.reason == "needs at least 2 frames; this clip has 1"
        else:
            assert found.score == pytest.approx(wanted, abs=TOLERANCE, rel=0), name


@pytest.mark.parametrize("dimension", ["i2v_subject", "i2v_background"])
def test_i2v_scores_are_the_official_ones(
    dimension: str, oracle: dict[str, Any], models: Models, dreamsim_folder: Path, tmp_path: Path
) -> None:
    """Both formulas, and DreamSim with its LoRA, against VBench-I2V and the dreamsim package."""
    used = models if dimension == "i2v_subject" else Models(Weights(dreamsim_folder))
    metric = METRICS[f"vbench_i2v.{dimension}"]
    for name in CLIPS:
        clip = ClipToScore(DATA / "clips" / f"{name}.mp4", image=write_picture(name, tmp_path))
        (result,) = score_clips([clip], [metric], used)
        wanted, score = oracle["dimensions"][dimension][name], result.scores[metric.name]
        if isinstance(wanted, dict):  # the official code failed
            assert (name, score.reason) == ("one_frame", "needs at least 2 frames; this clip has 1")
        else:
            assert score.score == pytest.approx(wanted, abs=TOLERANCE, rel=0), name


def test_the_oracle_tells_clips_apart(oracle: dict[str, Any]) -> None:
    """Weights that answer the same to everything would prove nothing."""
    for dimension, official in oracle["dimensions"].items():
        values = [value for value in official.values() if isinstance(value, float)]
        if values:
            assert max(values) - min(values) > 0.1, dimension
            assert len({round(value, 4) for value in values}) > len(values) / 2, dimension
    verdicts = {found["dynamic"] for found in oracle["dimensions"]["dynamic_degree"].values() if "dynamic" in found}
    assert verdicts == {True, False}


def test_actions_are_the_official_ones(oracle: dict[str, Any], models: Models, clip_of: ClipOf) -> None:
    metric = METRICS["vbench.human_action"]
    for name, wanted in oracle["dimensions"]["human_action"].items():
        top = models.get("umt").top(clip_of(name))
        assert [KINETICS_400[index] for index, _ in top] == [label for label, _ in wanted["top"]], name
        assert [value for _, value in top] == pytest.approx([value for _, value in wanted["top"]], abs=TOLERANCE, rel=0)
    label, verdict = next(item for item in wanted["verdicts"].items() if item[1])
    found = metric.score(clip_of(name), Context(models, f"A person is {label}"))
    assert (found.score, verdict) == (1.0, True)
    assert metric.score(clip_of(name), Context(models, "A person is abseiling")).score == 0.0


@pytest.mark.parametrize("name", FLOW_CLIPS)
def test_flows_and_verdicts_are_the_official_ones(name: str, oracle: dict[str, Any], score: Any) -> None:
    wanted = oracle["dimensions"]["dynamic_degree"][name]
    found = score("vbench.dynamic_degree", name)
    if "error" in wanted:  # the official flow is not a number, and its verdict chance
        assert found.score is None
        assert found.reason == "the flow is not a number: RAFT needs more than 120 pixels a side, and the clip is 96x96"
    else:
        assert found.score == float(wanted["dynamic"])
        assert found.details["speeds"] == pytest.approx(wanted["flows"], rel=TOLERANCE)


def test_the_static_filter_is_the_official_one(oracle: dict[str, Any], score: Any) -> None:
    wanted = oracle["dimensions"]["static_filter"]["two_frames"]
    found = score("vbench_tools.static_filter", "two_frames")
    assert found.score == float(wanted["static"])
    assert found.details["speeds"] == pytest.approx(wanted["flows"], rel=TOLERANCE)


def test_the_static_rule() -> None:
    """The tiny weights make no clip static: the rule by hand, with a limit of 1 and 9 frames, so that 1 may be fast."""
    for consecutive, ends, wanted in (
        ([0.5] * 8, [0.5, 0.5], True),
        ([1.5] + [0.5] * 7, [2.0, 2.0], True),
        ([1.5, 1.5] + [0.5] * 6, [0.5, 0.5], False),
        ([0.5] * 8, [0.5, 2.1], False),
    ):
        assert is_static(np.array([*consecutive, *ends], dtype=np.float32), 1.0) is wanted
    assert is_static(np.zeros(3, dtype=np.float32), 1.0)  # two frames: none may be fast, and the ends must be equal
    assert not is_static(np.array([0, 0, 0.1], dtype=np.float32), 1.0)


def test_what_a_metric_needs_and_does_not_get_is_said(models: Models, clip_of: ClipOf) -> None:
    clip = clip_of("two_frames")
    for name, reason in (
        ("vbench.overall_consistency", "needs the prompt, and none was given"),
        ("vbench.appearance_style", "needs the suite's auxiliary_info for appearance_style, and none was given"),
        ("common.psnr", "needs a reference clip, and none was given"),
    ):
        found = METRICS[name].score(clip, Context(models))
        assert (found.score, found.reason) == (None, reason)
    long = Context(models, auxiliary={"appearance_style": "very " * 100})
    assert "tokens; CLIP takes at most 77" in (METRICS["vbench.appearance_style"].score(clip, long).reason or "")
    no_action = METRICS["vbench.human_action"].score(clip, Context(models, "a lighthouse"))
    assert no_action.reason == "'a lighthouse' is not an action of Kinetics-400, so it could never be recognised"
