"""Margins that are proposed: what they promise is what happens, and what cannot be told is said."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.scoring import METRICS
from pipeline.scoring.compare import Run, RunClip, State, compare, read_margins
from pipeline.scoring.compare.calibration import Proposal, propose
from pipeline.scoring.compare.runs import Key
from pipeline.scoring.compare.statistics import estimate, intervals
from pipeline.scoring.metric import Score

QUALITY, CONSISTENCY = METRICS["vbench.imaging_quality"], METRICS["vbench.subject_consistency"]
SSIM, LPIPS = METRICS["common.ssim"], METRICS["common.lpips"]


def _run(name: str, values: np.ndarray, metric: str = QUALITY.name, first_seed: int = 1, **details: object) -> Run:
    """A clip of each prompt, of a seed of its own."""
    clips = {
        Key(entry, first_seed): RunClip(f"{entry}.mp4", {metric: Score(float(value), details=details)})
        for entry, value in enumerate(values)
    }
    return Run(name, clips)


def _night(random: np.random.Generator, prompts: np.ndarray, loss: float = 0.0) -> np.ndarray:
    return prompts - loss + random.normal(0, 2.0, len(prompts))


def _only(runs: list[Run], metric: object = QUALITY) -> Proposal:
    (proposal,) = propose(runs, [metric])  # type: ignore[list-item]
    return proposal


@pytest.mark.parametrize("prompts", [12, 31])
def test_unchanged_nights_pass_and_the_loss_that_is_said_is_found(prompts: int) -> None:
    random = np.random.default_rng(prompts)
    means = random.normal(60, 8, prompts)
    runs = [_run(f"{n}", _night(random, means), first_seed=n) for n in range(6)]
    proposal = _only(runs)
    assert proposal.margin is not None
    assert proposal.found is not None
    assert proposal.spread == pytest.approx(2.0 * 2**0.5, rel=0.25)
    assert proposal.passes is not None
    assert 0.945 <= proposal.passes < 1
    assert proposal.false_alarms is not None
    assert proposal.false_alarms < 0.002

    states = {State.OK: 0, State.REGRESSED: 0, State.INCONCLUSIVE: 0}
    for loss in (0.0, proposal.found):
        for _ in range(100):
            before, after = (_run("", _night(random, means, less)) for less in (0.0, loss))
            states[compare(before, after, [QUALITY], {QUALITY.name: proposal.margin}).state] += 1
    assert states[State.OK] >= 85
    assert states[State.REGRESSED] >= 65


def test_more_metrics_get_wider_margins_so_that_all_pass_together() -> None:
    random = np.random.default_rng(0)
    values = [random.normal(60, 1, 40) for _ in range(4)]
    runs = []
    for number, one in enumerate(values):
        run = _run(f"{number}", one, first_seed=number)
        clips = {
            key: RunClip(clip.video, {**clip.scores, CONSISTENCY.name: clip.scores[QUALITY.name]})
            for key, clip in run.clips.items()
        }
        runs.append(Run(run.name, clips))
    alone, (first, second) = _only(runs), propose(runs, [QUALITY, CONSISTENCY])
    assert alone.margin is not None
    assert first.margin == second.margin
    assert first.margin is not None
    assert first.margin > alone.margin


def test_a_likeness_gets_a_bound_that_unchanged_nights_keep() -> None:
    random = np.random.default_rng(1)
    higher = [_run(f"{n}", 1 - random.uniform(0.001, 0.004, 40), SSIM.name) for n in range(3)]
    lower = [_run(f"{n}", random.uniform(0.001, 0.004, 40), LPIPS.name) for n in range(3)]
    for runs, metric, sign in ((higher, SSIM, ">="), (lower, LPIPS, "<=")):
        proposal = _only(runs, metric)
        assert proposal.option is not None
        assert proposal.option.startswith(f"{metric.name}{sign}0.")
        margins = read_margins([proposal.option], "margin")
        assert margins[metric.name] == pytest.approx(proposal.margin)
        baseline = Run("baseline", {key: RunClip("", {}) for key in runs[0].clips})
        assert all(compare(baseline, run, [metric], margins).state is State.OK for run in runs)


def test_what_says_nothing_of_chance_is_said() -> None:
    same = np.full(40, 60.0) + np.arange(40)
    runs = [_run("a", same), _run("b", same)]
    assert _only(runs).reason == (
        "the runs do not differ in any score: that says nothing of chance; take runs with other seeds"
    )
    assert _only([_run("a", np.ones(5), SSIM.name)] * 2, SSIM).reason == (
        "in the runs that have this score (a, a) every clip equals the one that it was compared with: "
        "that says nothing of chance; take runs with other seeds"
    )
    assert _only([runs[0], _run("b", same + 1)]).reason == "all prompts differ by the same: the spread is not known"
    one = np.array([60.0])
    nothing = "no two runs have scores of the same two prompts or more"
    assert _only([_run("a", one), _run("b", one + 1)]).reason == nothing
    assert _only(runs, CONSISTENCY).reason == nothing
    others = [_run("a", same, scorer={"version": 1}), _run("b", same, scorer={"version": 2})]
    assert _only(others).reason == "the runs' scores were made in different ways (details.scorer)"
    assert _only(others).option is None


def test_one_run_is_too_few() -> None:
    with pytest.raises(InputError, match="two runs or more are needed"):
        propose([_run("a", np.ones(5))], [QUALITY])


@pytest.mark.parametrize("prompts", [2, 5, 20, 31])
def test_many_intervals_at_once_are_those_of_each_night(prompts: int) -> None:
    nights = np.random.default_rng(0).exponential(1.0, (20, prompts)) - 1
    for night, low, high in zip(nights, *intervals(nights), strict=True):
        found = estimate(night, 0.0)
        assert found is not None
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6)
