"""Two runs compared: verdicts, baselines, repeats, and simulated histories of nights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.nightly import Model, gated, history, states
from pipeline.errors import InputError
from pipeline.scoring import METRICS, Clip
from pipeline.scoring.clip import pixel_digest
from pipeline.scoring.compare import (
    Comparison,
    Key,
    Run,
    RunClip,
    SpeedSample,
    State,
    advice,
    combined,
    compare,
    median_run,
    read_run,
    run_of,
    speed_verdicts,
    with_repeat_option,
)
from pipeline.scoring.compare.statistics import ALPHA
from pipeline.scoring.metric import Metric, Score, not_scored

HIGHER, LOWER = METRICS["vbench.imaging_quality"], METRICS["checks.black"]
NOISE = [0.01, -0.02, 0.03, -0.01, 0.02, -0.03, 0.0, 0.01, -0.01, 0.02]


def _run(values: list[float | None], *, metric: Metric = HIGHER, seeds: int = 1, **details: Any) -> Run:
    """A prompt for each value; all its seeds have it."""
    clips = {}
    for entry, value in enumerate(values):
        score = not_scored("too short") if value is None else Score(value, details=details)
        for seed in range(seeds):
            clips[Key(entry, seed)] = RunClip(f"{entry}-{seed}.mp4", {metric.name: score})
    return Run("run", clips)


def _compare(before: Run, after: Run, margin: float | None = 0.1, metric: Metric = HIGHER) -> Comparison:
    return compare(before, after, [metric], {} if margin is None else {metric.name: margin})


def _shifted(by: float) -> list[float | None]:
    return [0.5 + by + noise for noise in NOISE]


@pytest.mark.parametrize(
    ("by", "state"),
    [(0.0, State.OK), (-0.05, State.OK), (-0.1, State.INCONCLUSIVE), (-0.2, State.REGRESSED), (0.3, State.OK)],
)
def test_the_interval_is_judged_by_the_margin(by: float, state: State) -> None:
    found = _compare(_run([0.5] * 10), _run(_shifted(by)))

    assert (found.state, found.metrics[0].state) == (state, state)
    assert found.metrics[0].prompts[0].gain == pytest.approx(by + NOISE[0])


def test_a_metric_of_which_less_is_better_loses_when_it_grows() -> None:
    worse = _compare(_run([0.5] * 10, metric=LOWER), _run(_shifted(0.2), metric=LOWER), metric=LOWER)
    assert worse.state is State.REGRESSED
    assert worse.metrics[0].estimate is not None
    assert worse.metrics[0].estimate.mean == pytest.approx(-0.202)


def test_prompts_count_once_however_many_seeds_they_have() -> None:
    one, four = (_compare(_run([0.5] * 10, seeds=n), _run(_shifted(-0.2), seeds=n)).metrics[0] for n in (1, 4))

    assert one.estimate == four.estimate  # equal seeds say nothing more
    assert four.prompts[3].seeds == (0, 1, 2, 3)


def test_without_a_margin_nothing_is_claimed() -> None:
    found = _compare(_run([0.5] * 10), _run(_shifted(-0.4)), margin=None)
    assert (found.state, found.metrics[0].state) == (State.NO_CALIBRATION, State.NO_CALIBRATION)
    assert found.metrics[0].estimate is not None


def test_one_prompt_has_no_spread() -> None:
    assert _compare(_run([0.5]), _run([0.1])).state is State.NO_CALIBRATION


def test_a_clip_or_score_of_one_run_only_makes_it_incomplete() -> None:
    before, after = _run([0.5] * 10), _run(_shifted(0.0))
    fewer = replace(after, clips={key: clip for key, clip in after.clips.items() if key.entry})
    unscored = _run([None, *_shifted(0.0)[1:]])
    neither = _run([None, *[0.5] * 9])

    assert _compare(before, fewer).state is State.INCOMPLETE
    assert _compare(before, fewer).missing_clips == 1
    assert _compare(before, unscored).metrics[0].missing == 1
    assert _compare(before, unscored).state is State.INCOMPLETE
    assert _compare(neither, unscored).state is State.OK  # neither can be scored: the pair says nothing
    assert _compare(_run([None] * 3), _run([None] * 3)).state is State.INCOMPLETE


@pytest.mark.parametrize("field", ["version", "device", "dtype", "weights", "decoder", "torch"])
def test_scores_of_another_scorer_are_not_compared(field: str) -> None:
    scorer = {"version": 1, "device": "cpu", "dtype": "float32", "weights": {"a": "0"}, "decoder": "1", "torch": "2"}
    before = _run([0.5] * 10, scorer=scorer)

    assert _compare(before, _run(_shifted(0.0), scorer=scorer)).state is State.OK
    other = _compare(before, _run(_shifted(-0.4), scorer={**scorer, field: "other"}))
    assert other.state is State.OTHER_FINGERPRINT
    mixed = combined(before, _moved(_run([0.5], scorer={**scorer, field: "other"}), 7))
    assert _compare(mixed, mixed).state is State.OTHER_FINGERPRINT


def _moved(run: Run, by: int) -> Run:
    """The same clips under other seeds."""
    return replace(run, clips={Key(key.entry, key.seed + by): clip for key, clip in run.clips.items()})


def test_equal_pixels_need_no_scores(clip_of: Callable[[str], Clip]) -> None:
    cut, fast = pixel_digest(clip_of("cut")), pixel_digest(clip_of("fast"))
    assert cut != fast
    before = Run("a", {Key(0, 1): RunClip("a.mp4", {}, cut)})

    assert compare(before, Run("b", {Key(0, 1): RunClip("b.mp4", {}, cut)}), [], {"x": 1.0}).state is State.IDENTICAL
    for other in (
        Run("b", {Key(0, 1): RunClip("b.mp4", {}, fast)}),
        Run("b", {Key(0, 1): RunClip("b.mp4", {}, None)}),
        Run("b", {Key(0, 2): RunClip("b.mp4", {}, cut)}),
    ):
        assert compare(before, other, [], {}).state is not State.IDENTICAL


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_a_margin_must_be_a_number_of_at_least_0(margin: float) -> None:
    with pytest.raises(InputError, match="a margin is a number of at least 0"):
        _compare(_run([0.5] * 3), _run([0.4] * 3), margin=margin)
    with pytest.raises(InputError, match="neither run has this metric"):
        compare(_run([0.5]), _run([0.5]), [HIGHER], {"checks.black": 0.1})


def test_several_gated_metrics_share_the_chance_of_a_false_alarm() -> None:
    # Given one metric that is found worse by itself, at p about 0.014
    metrics = gated(4)
    before = Run("a", {Key(e, 0): RunClip("", {m.name: Score(0.5) for m in metrics}) for e in range(10)})
    values = [0.5 - 0.018 + noise for noise in NOISE]
    flat = [0.5 + noise for noise in reversed(NOISE)]

    def run(names: list[Metric]) -> Run:
        scores = [{m.name: Score(values[e] if m is names[0] else flat[e]) for m in names} for e in range(10)]
        return Run("b", {Key(e, 0): RunClip("", scores[e]) for e in range(10)})

    alone = compare(before, run(metrics[:1]), metrics[:1], {metrics[0].name: 0.0})
    among = compare(before, run(metrics), metrics, {metric.name: 0.0 for metric in metrics})

    found = alone.metrics[0].estimate
    assert found is not None
    assert ALPHA / 4 < found.p_worse <= ALPHA
    assert alone.state is State.REGRESSED
    assert among.metrics[0].state is State.INCONCLUSIVE
    assert "Holm" in among.metrics[0].reason


def test_a_regression_is_repeated_before_it_alarms() -> None:
    first = _compare(_run([0.5] * 10), _run(_shifted(-0.2)))
    assert first.advice == "repeat with a second seed set before alarming"
    assert with_repeat_option(first, "`--again`").advice == f"{first.advice} (`--again`)"

    # When the second seeds do not lose, both together decide
    baseline = combined(_run([0.5] * 10), _moved(_run([0.5] * 10), 100))
    candidate = combined(_run(_shifted(-0.2)), _moved(_run(_shifted(0.1)), 100))
    both = _compare(baseline, candidate)

    assert both.metrics[0].prompts[0].seeds == (0, 100)
    assert (both.state, advice(first.state, both.state)) == (State.OK, "no alarm: it did not repeat")
    assert advice(State.REGRESSED, State.REGRESSED) == "alarm: it repeats with a second seed set"
    assert advice(State.REGRESSED, State.INCONCLUSIVE) == "no alarm: both seed sets together cannot tell"
    assert advice(State.OK) is None
    with pytest.raises(InputError, match="take other seeds"):
        combined(baseline, candidate)


def test_a_baseline_of_several_runs_is_their_median() -> None:
    scorer, old = {"version": 2}, {"version": 1}
    runs = [_run(values, scorer=scorer) for values in ([0.1, 0.5], [0.9, 0.9], [0.5, 0.1], [0.6, 0.3])]

    # Then it is one of the runs, not better than any of them because each clip failed on another night
    assert median_run(runs[:3]).mean(HIGHER.name) == pytest.approx(0.3)
    assert median_run(runs).mean(HIGHER.name) == pytest.approx(0.45)
    assert median_run([_run([0.0, 0.0], scorer=old), *runs]).mean(HIGHER.name) == pytest.approx(0.45)
    assert median_run([_run([0.0]), *runs]).mean(HIGHER.name) == pytest.approx(0.45)
    assert median_run([_run([None])]).mean(HIGHER.name) is None
    with pytest.raises(InputError, match="at least one"):
        median_run([])


def test_a_score_file_is_read_by_entry_and_seed(tmp_path: Path) -> None:
    scores = {HIGHER.name: {"name": HIGHER.name, "score": 0.5, "details": {"weight": 3, "scorer": {"version": 1}}}}
    other = {LOWER.name: {"name": LOWER.name, "score": None, "details": {"reason": "empty"}}}
    records = [
        {"video": "a.mp4", "entry": 0, "seed": 3, "pixels": "d", "scores": scores},
        {"video": "b.mp4", "entry": 0, "seed": 3, "scores": other},
    ]
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(records), "utf-8")

    clip = read_run(path).clips[Key(0, 3)]

    assert (clip.video, clip.pixels, set(clip.scores)) == ("b.mp4", "d", {HIGHER.name, LOWER.name})
    assert clip.scores[HIGHER.name].details == {"scorer": {"version": 1}}
    with pytest.raises(InputError, match=r"record 0: entry None, seed None: only clips with an entry and a seed"):
        run_of([{"video": "a.mp4", "scores": {}}], "x.json")
    with pytest.raises(InputError, match="no clips"):
        run_of([], "x.json")


# Speed


def _speed(seconds: float, peak: int | None = 10**10, gpu: str = "H100") -> SpeedSample:
    return SpeedSample("wan", gpu, seconds, peak)


@pytest.mark.parametrize(
    ("usual", "now", "state"),
    [
        (60.0, 67.0, State.REGRESSED),
        (60.0, 65.0, State.OK),  # a second, but no tenth
        (2.0, 2.8, State.OK),  # a tenth, but no second
        (60.0, 30.0, State.OK),
    ],
)
def test_slower_by_a_share_and_by_seconds_is_worse(usual: float, now: float, state: State) -> None:
    past = [_speed(500.0), *(_speed(usual * factor) for factor in (1.0, 0.9, 1.0, 3.0, 1.0))]
    elsewhere = [_speed(1.0, gpu="H200")] * 5

    seconds, memory = speed_verdicts([*past, *elsewhere], [_speed(now)])

    assert (seconds.state, seconds.median) == (state, usual)  # of the last five, on this GPU
    assert (memory.measure, memory.state) == ("peak_bytes", State.OK)


def test_more_memory_is_worse_and_four_runs_are_no_calibration() -> None:
    _, memory = speed_verdicts([_speed(60.0)] * 5, [_speed(60.0, 11 * 10**9)])
    assert memory.state is State.REGRESSED
    assert [one.state for one in speed_verdicts([_speed(60.0)] * 4, [_speed(600.0, None)])] == [State.NO_CALIBRATION]


# Simulated nights; `python -m bench.nightly` does the same for longer


def test_an_injected_regression_is_caught_and_an_unchanged_model_is_not() -> None:
    worse = history(30, 36, 2, 2, 0.06, worse_from=20, loss=0.15, seed=1)
    same = history(30, 36, 2, 2, 0.06, worse_from=None, loss=0.0, seed=1)

    assert State.REGRESSED not in worse[:20]
    assert worse[20:] == [State.REGRESSED] * 10  # a run that regressed is never part of the baseline
    assert State.REGRESSED not in same
    assert same.count(State.OK) >= 15  # it does not reach this by never deciding


@pytest.mark.parametrize(("prompts", "nights"), [(12, 2000), (40, 150)])
def test_an_unchanged_model_alarms_no_more_often_than_promised(prompts: int, nights: int) -> None:
    # Given the hardest case, no margin at all: with a margin an unchanged model is far from the limit
    found = states(nights, prompts, 2, 2, 0.0, seed=2)

    noise = 3 * (ALPHA * (1 - ALPHA) / nights) ** 0.5
    assert found[State.REGRESSED] / nights <= ALPHA + noise
    assert states(nights // 10, prompts, 2, 2, 0.05, seed=3)[State.REGRESSED] == 0


def test_simulated_nights_lose_what_they_are_told_to() -> None:
    model = Model.drawn(np.random.default_rng(0), 2, 400, 3)
    before, after = (model.night(np.random.default_rng(1), "", loss) for loss in ([], [0.2]))
    name, other = "simulated.m0", "simulated.m1"
    assert (before.mean(name) or 0) - (after.mean(name) or 0) == pytest.approx(0.2)
    assert before.mean(other) == after.mean(other)


def test_runs_of_two_suites_are_not_compared() -> None:
    one, other = (
        Run(name, {Key(0, 1): RunClip("a.mp4", {}, "digest", prompt=prompt)})
        for name, prompt in (("monday", "a fox"), ("tuesday", "a boat"))
    )
    with pytest.raises(InputError, match=r"monday and tuesday are runs of two suites.*entry 0 is 'a fox'"):
        compare(one, other, [], {})
