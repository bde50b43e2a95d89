"""Margins from runs of a model that did not change: how far its scores differ by chance, and what follows.

Runs are past nights, or the same suite with other seeds (A/A). A margin is chosen so that an unchanged night passes
with probability ``PASSES`` in all metrics together: by Student's t, and by nights that are drawn from the runs' own
differences, whichever asks for more. What that costs, the loss that is then found, is said with it.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.scoring.compare.runs import Run
from pipeline.scoring.compare.statistics import ALPHA, detectable_deviations, intervals, t_quantile
from pipeline.scoring.metric import Direction, Metric

PASSES = 0.95
"""The share of unchanged nights that are to be ok in all gated metrics."""
SIMULATED = 2000
"""Nights that are drawn."""
_DIGITS = 2


@dataclass(frozen=True, slots=True)
class Proposal:
    """A metric's margin, or ``reason``: why none is proposed. Shares are of 1."""

    metric: Metric
    prompts: int
    reason: str | None = None
    margin: float | None = None
    spread: float | None = None
    """Standard deviation of the prompts' differences between two runs, or of their likenesses to the baseline."""
    false_alarms: float | None = None
    """Share of the drawn nights that would be called regressed by this metric, though nothing changed."""
    passes: float | None = None
    """Share of the drawn nights that would be ok by this metric."""
    found: float | None = None
    """The loss that is found 8 times of 10."""

    @property
    def option(self) -> str | None:
        """The margin as ``--margin`` takes it: a bound where it is on a likeness."""
        if self.margin is None:
            return None
        if self.metric.perfect is None:
            return f"{self.metric.name}={self.margin:g}"
        if self.metric.direction is Direction.HIGHER:
            return f"{self.metric.name}>={self.metric.perfect - self.margin:g}"
        return f"{self.metric.name}<={self.metric.perfect + self.margin:g}"


def propose(runs: Sequence[Run], metrics: Sequence[Metric], *, seed: int = 0) -> list[Proposal]:
    """A margin for each metric, from two or more runs of an unchanged model.

    Raises:
        InputError: fewer than two runs.
    """
    if len(runs) < 2:
        raise InputError("two runs or more are needed: nights that passed, or the same suite with other seeds")
    return [_propose(runs, metric, len(metrics), seed) for metric in metrics]


def _propose(runs: Sequence[Run], metric: Metric, tests: int, seed: int) -> Proposal:
    scorers = frozenset[str]().union(*(run.scorers(metric.name) for run in runs))
    if len(scorers) > 1:
        return Proposal(metric, 0, "the runs' scores were made in different ways (details.scorer)")
    likeness = metric.perfect is not None
    samples = _likenesses(runs, metric) if likeness else _differences(runs, metric)
    if not samples:
        return Proposal(metric, 0, "no two runs have scores of the same two prompts or more")
    prompts = min(len(sample) for sample in samples)
    lively = [sample for sample in samples if sample.any()]
    if not lively:
        names = ", ".join(run.name for run in runs if run.mean(metric.name) is not None)
        same = (
            f"in the runs that have this score ({names}) every clip equals the one that it was compared with"
            if likeness
            else "the runs do not differ in any score"
        )
        return Proposal(metric, prompts, f"{same}: that says nothing of chance; take runs with other seeds")
    spread = math.sqrt(float(np.mean([np.var(sample, ddof=1) for sample in lively])))
    if spread == 0:
        return Proposal(metric, prompts, "all prompts differ by the same: the spread is not known")
    # A likeness has a loss of its own even of an unchanged model; differences of two equal runs have none.
    usual = max(0.0, -min(float(sample.mean()) for sample in lively)) if likeness else 0.0
    error, freedom = spread / math.sqrt(prompts), prompts - 1
    reach = t_quantile(1 - ALPHA, freedom)
    share = 1 - (1 - PASSES) / tests
    lows, highs = _drawn(lively, prompts, seed, centre=not likeness)
    by_t = usual + (reach + t_quantile(share, freedom)) * error
    margin = _rounded_up(max(by_t, float(np.quantile(-lows, share))))
    return Proposal(
        metric,
        prompts,
        margin=margin,
        spread=spread,
        false_alarms=float(np.mean(highs < -margin)),
        passes=float(np.mean(lows >= -margin)),
        found=margin + detectable_deviations(prompts, tests=tests) * spread,
    )


def _differences(runs: Sequence[Run], metric: Metric) -> list[NDArray[np.float64]]:
    """The prompts' differences between each two runs, whatever their seeds; of two prompts and more."""
    means = [_by_entry(run, metric) for run in runs]
    pairs = [
        np.array([after[entry] - before[entry] for entry in sorted(before.keys() & after.keys())])
        for before, after in itertools.combinations(means, 2)
    ]
    return [pair for pair in pairs if len(pair) > 1]


def _likenesses(runs: Sequence[Run], metric: Metric) -> list[NDArray[np.float64]]:
    """Gains of each run's clips over clips that equal their baseline's, by prompt: never above 0."""
    assert metric.perfect is not None
    sign = 1.0 if metric.direction is Direction.HIGHER else -1.0
    samples = [np.array(list(_by_entry(run, metric).values())) for run in runs]
    return [sign * (sample - metric.perfect) for sample in samples if len(sample) > 1]


def _by_entry(run: Run, metric: Metric) -> dict[int, float]:
    """The mean over seeds of each prompt's scores."""
    scores: dict[int, list[float]] = {}
    for key, clip in run.clips.items():
        score = clip.scores.get(metric.name)
        if score is not None and score.score is not None:
            scores.setdefault(key.entry, []).append(score.score)
    return {entry: math.fsum(values) / len(values) for entry, values in scores.items()}


def _drawn(
    samples: Sequence[NDArray[np.float64]], prompts: int, seed: int, *, centre: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ends of the intervals of ``SIMULATED`` nights, whose prompts are drawn from the samples'."""
    random = np.random.default_rng(seed)
    values = np.concatenate(samples)
    if centre:  # which of two unchanged runs came first is chance
        values = np.concatenate([values, -values])
    nights = random.choice(values, (SIMULATED, prompts))
    return intervals(nights)


def _rounded_up(value: float) -> float:
    """Two digits, upwards."""
    scale = 10.0 ** (math.floor(math.log10(value)) - _DIGITS + 1)
    return float(f"{math.ceil(value / scale - 1e-9) * scale:.{_DIGITS}g}")
