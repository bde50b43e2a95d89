"""Nights of shapes-wan: what is damaged, and how nights are judged."""

from __future__ import annotations

import torch

from examples.shapes.nightly_trial import METRIC, Judged, damage, judged, row
from pipeline.scoring.compare import Run, State
from pipeline.scoring.compare.runs import Key, RunClip
from pipeline.scoring.metric import Score


def _night(name: str, scores: list[float]) -> Run:
    return Run(name, {Key(n, 1): RunClip("", {METRIC.name: Score(score)}, None) for n, score in enumerate(scores)})


def test_damage_is_a_share_of_each_matrix_s_spread_and_leaves_vectors() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(200, 300)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    damage(model, 0.2)
    apart = (model.weight - before["weight"]).std() / before["weight"].std()
    assert abs(apart - 0.2) < 0.01
    assert torch.equal(model.bias, before["bias"])


def test_a_worse_night_is_flagged_and_an_equal_one_is_not() -> None:
    scores = [1.0, 0.75, 1.0, 0.75] * 9
    worse = judged(
        [_night("0", scores)], _night("1", [score - 0.25 * (n % 3 > 0) for n, score in enumerate(scores)]), 0.05
    )
    alike = judged([_night("0", scores)], _night("2", scores[1:] + scores[:1]), 0.15)
    assert (worse.state, alike.state) == (State.REGRESSED, State.OK)
    assert row("both", [worse, alike]) == f"| both | 2 | {(worse.followed + alike.followed) / 2:.3f} | 1 | 0 | 1 |"
    assert Judged(alike.run, State.OK).followed == 0.875
