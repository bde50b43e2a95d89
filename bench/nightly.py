"""Simulates nightly evaluations of an unchanged or changed model, and counts how often their comparison alarms.

python -m bench.nightly --nights 4000
python -m bench.nightly --skew --nights 2000

Each night has ``--prompts`` prompts with ``--seeds`` clips and ``--metrics`` gated metrics. Prompts differ by 0.1
(standard deviation), clips of one prompt by 0.05, drawn anew every night: more than a fixed seed would differ, so the
harder case. A tenth of the clips fail and lose 0.3, so that the differences have heavy tails.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.scoring.compare import Key, Run, RunClip, State, compare, median_run
from pipeline.scoring.compare.statistics import ALPHA, estimate, t_quantile
from pipeline.scoring.metric import Metric, Score, not_scored


def gated(number: int) -> list[Metric]:
    """That many metrics of 0 to 1, higher is better."""
    return [Metric(f"simulated.m{index}", "", lambda *_: not_scored("simulated")) for index in range(number)]


@dataclass(frozen=True)
class Model:
    """Prompts' own means by metric, shape (metrics, prompts), the same every night."""

    means: np.ndarray
    seeds: int

    @classmethod
    def drawn(cls, random: np.random.Generator, metrics: int, prompts: int, seeds: int) -> Model:
        return cls(0.7 + 0.1 * random.standard_normal((metrics, prompts)), seeds)

    def night(self, random: np.random.Generator, name: str, loss: Sequence[float] = ()) -> Run:
        """One run; ``loss`` by metric is what the model became worse by."""
        metrics, prompts = self.means.shape
        lost = np.zeros(metrics)
        lost[: len(loss)] = loss
        shape = (metrics, prompts, self.seeds)
        failed = 0.3 * (random.random(shape) < 0.1)
        values = self.means[:, :, None] - lost[:, None, None] + 0.05 * random.standard_normal(shape) - failed
        return Run(
            name,
            {
                Key(prompt, seed): RunClip(
                    f"{prompt}-{seed}.mp4",
                    {f"simulated.m{index}": Score(float(values[index, prompt, seed])) for index in range(metrics)},
                )
                for prompt in range(prompts)
                for seed in range(self.seeds)
            },
        )


def states(
    nights: int, prompts: int, seeds: int, metrics: int, margin: float, loss: Sequence[float] = (), seed: int = 0
) -> Counter[State]:
    """The verdicts of so many nights, each against a baseline of its own, so that nights are independent."""
    random = np.random.default_rng(seed)
    chosen = gated(metrics)
    margins = {metric.name: margin for metric in chosen}
    counts: Counter[State] = Counter()
    for night in range(nights):
        model = Model.drawn(random, metrics, prompts, seeds)
        baseline, candidate = model.night(random, "baseline"), model.night(random, "candidate", loss)
        counts[compare(baseline, candidate, chosen, margins, seed=night).state] += 1
    return counts


def history(
    nights: int, prompts: int, seeds: int, metrics: int, margin: float, worse_from: int | None, loss: float, seed: int
) -> list[State]:
    """Night after night against the median of the last five that passed; from ``worse_from`` on all metrics lose."""
    random = np.random.default_rng(seed)
    model, chosen = Model.drawn(random, metrics, prompts, seeds), gated(metrics)
    margins = {metric.name: margin for metric in chosen}
    passed = [model.night(random, f"night {-5 + before}") for before in range(5)]
    runs = []
    for night in range(nights):
        losses = [loss] * metrics if worse_from is not None and night >= worse_from else []
        run = model.night(random, f"night {night}", losses)
        state = compare(median_run(passed[-5:]), run, chosen, margins, seed=night).state
        runs.append(state)
        if state is State.OK:
            passed.append(run)
    return runs


SHAPES = ("normal", "exponential", "log-normal", "rare failures")
"""Of the prompts' differences: even, skewed (2), strongly (6.2), and a tenth of them 0.3 off in noise of 0.05."""


def differences(shape: str, size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Differences with a mean of 0 whose long tail is of gains."""
    if shape == "normal":
        return random.standard_normal(size)
    if shape == "exponential":
        return random.exponential(1.0, size) - 1
    if shape == "log-normal":
        return random.lognormal(0.0, 1.0, size) - np.exp(0.5)
    return 0.3 * (random.random(size) < 0.1) - 0.03 + 0.05 * random.standard_normal(size)


def skewed(nights: int, prompts: int, shape: str, seed: int = 0) -> tuple[float, float, float, float]:
    """Shares of nights at the limit that are called worse and better: by t alone, and as nights are judged.

    "Better" is an interval wholly above the limit, by which a metric is ok.
    """
    random = np.random.default_rng(seed)
    values = differences(shape, (nights, prompts), random)
    t = values.mean(axis=1) / (values.std(axis=1, ddof=1) / np.sqrt(prompts))
    reach = t_quantile(1 - ALPHA, prompts - 1)
    judged = [estimate(night, 0.0) for night in values]
    worse = np.mean([one is not None and one.p_worse <= ALPHA for one in judged])
    better = np.mean([one is not None and one.low > 0 for one in judged])
    return float(np.mean(t < -reach)), float(worse), float(np.mean(t > reach)), float(better)


def print_skewed(nights: int, prompts: Sequence[int]) -> None:
    print("| prompts | differences | worse: t alone | worse: as judged | better: t alone | better: as judged |")
    print("| --- | --- | --- | --- | --- | --- |")
    for count in prompts:
        for shape in SHAPES:
            shares = " | ".join(f"{100 * share:.1f} %" for share in skewed(nights, count, shape))
            print(f"| {count} | {shape} | {shares} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=4000)
    parser.add_argument("--prompts", type=int, nargs="+", default=[12, 40])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--metrics", type=int, default=4)
    parser.add_argument("--margin", type=float, default=0.05)
    parser.add_argument("--skew", action="store_true", help="single comparisons of skewed differences, at the limit")
    arguments = parser.parse_args()
    if arguments.skew:
        print_skewed(arguments.nights, arguments.prompts)
        return
    common = (arguments.seeds, arguments.metrics)
    print("prompts | truth | margin | regressed | ok | inconclusive | seconds")
    for prompts in arguments.prompts:
        for truth, margin, loss in (
            ("unchanged", arguments.margin, []),
            ("unchanged", 0.0, []),
            ("at the margin", arguments.margin, [arguments.margin] * arguments.metrics),
            ("0.15 worse in one metric", arguments.margin, [0.15]),
        ):
            started = time.perf_counter()
            counts = states(arguments.nights, prompts, *common, margin, loss)
            shares = (
                f"{100 * counts[state] / arguments.nights:.2f} %"
                for state in (State.REGRESSED, State.OK, State.INCONCLUSIVE)
            )
            print(
                f"{prompts} | {truth} | {margin} | {' | '.join(shares)} | {time.perf_counter() - started:.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
