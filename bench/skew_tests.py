"""Which one-sided test of a mean keeps its promise where few prompts gain much and the rest lose a little.

python -m bench.skew_tests --nights 2000

For each number of prompts and each shape of differences (``bench.nightly``): the share of nights exactly at the limit
that a test calls worse at a level of 2.5 %, and its power, the share of nights that are worse by the loss that
Student's t finds 8 times of 10 of normal differences. ``judged`` is what nights are judged by: Student's t and Hall's
transformation, both of which must say so. Resampling tests draw ``DRAWS`` times.

Sources: Johnson 1978 (modified t), Efron 1979 and Hall 1992 (bootstrap-t), Fisher 1935 (sign-flip permutation).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.nightly import SHAPES, differences
from pipeline.scoring.compare.statistics import ALPHA, POWER, t_quantile

DRAWS = 999
TESTS = ("t", "judged", "Johnson", "bootstrap-t", "t and bootstrap-t", "sign flips")
DEVIATIONS = {"normal": 1.0, "exponential": 1.0, "log-normal": 2.161, "rare failures": 0.103}
"""Standard deviations of the shapes."""
_CHUNK = 200
"""Nights that are resampled at once: 50 MB with 31 prompts."""
_POWER_NIGHTS = 1000


def calls_worse(values: NDArray[np.float64], random: np.random.Generator) -> dict[str, NDArray[np.bool_]]:
    """Whether each test calls the mean of each night less than 0; ``values`` has the shape (nights, prompts)."""
    count = values.shape[1]
    root = math.sqrt(count)
    mean, spread = values.mean(axis=1), values.std(axis=1, ddof=1)
    spread = np.where(spread > 0, spread, 1e-12)
    t, reach = mean / (spread / root), t_quantile(1 - ALPHA, count - 1)
    cubes = ((values - mean[:, None]) ** 3).sum(axis=1) / spread**3
    skew = cubes * count / ((count - 1) * (count - 2))
    johnson = t + skew * (t * t / 3 + 1 / 6) / root
    hall = johnson + skew**2 * t**3 / (27 * count)
    bootstrap, flips = resampled(values, t, random)
    return {
        "t": t < -reach,
        "judged": (t < -reach) & (hall < -reach),
        "Johnson": (t < -reach) & (johnson < -reach),
        "bootstrap-t": bootstrap <= ALPHA,
        "t and bootstrap-t": (t < -reach) & (bootstrap <= ALPHA),
        "sign flips": flips <= ALPHA,
    }


def resampled(
    values: NDArray[np.float64], t: NDArray[np.float64], random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The p-values of the bootstrap-t and of the sign-flip permutation that the mean is less than 0, each (nights,)."""
    count = values.shape[1]
    bootstrap, flips = np.empty(len(values)), np.empty(len(values))
    for start in range(0, len(values), _CHUNK):
        nights = values[start : start + _CHUNK]
        chunk, size = slice(start, start + len(nights)), len(nights)
        mean, spread = nights.mean(axis=1)[:, None], nights.std(axis=1, ddof=1)[:, None]
        drawn = random.integers(0, count, (size, DRAWS, count)).reshape(size, 1, -1)
        again = np.take_along_axis(nights[:, None, :], drawn, 2).reshape(size, DRAWS, count)
        apart, spreads = again.mean(axis=-1) - mean, again.std(axis=-1, ddof=1)
        with np.errstate(all="ignore"):  # draws of one prompt alone have no spread
            ts = np.where(spreads > 1e-12 * spread, apart / (spreads / math.sqrt(count)), np.sign(apart) * 1e9)
        bootstrap[chunk] = ((ts <= t[chunk, None]).sum(axis=1) + 1) / (DRAWS + 1)
        signs = random.choice([-1.0, 1.0], (size, DRAWS, count))
        flips[chunk] = (((nights[:, None, :] * signs).mean(axis=-1) <= mean).sum(axis=1) + 1) / (DRAWS + 1)
    return bootstrap, flips


def rates(nights: int, prompts: int, shape: str, seed: int = 0) -> dict[str, tuple[float, float]]:
    """By test: the share of nights at the limit that it calls worse, and its power."""
    random = np.random.default_rng(seed)
    values = differences(shape, (nights, prompts), random)
    at_limit = calls_worse(values, random)
    plain = (t_quantile(1 - ALPHA, prompts - 1) + t_quantile(POWER, prompts - 1)) / math.sqrt(prompts)
    found = calls_worse(values[:_POWER_NIGHTS] - plain * DEVIATIONS[shape], random)
    return {name: (float(at_limit[name].mean()), float(found[name].mean())) for name in TESTS}


def print_rates(nights: int, prompts: Sequence[int]) -> None:
    print(f"| prompts | differences | {' | '.join(TESTS)} |")
    print("| --- " * (2 + len(TESTS)) + "|")
    for count in prompts:
        for shape in SHAPES:
            cells = (
                f"{100 * wrong:.1f} / {100 * power:.0f} %" for wrong, power in rates(nights, count, shape).values()
            )
            print(f"| {count} | {shape} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=2000)
    parser.add_argument("--prompts", type=int, nargs="+", default=[6, 12, 20, 31])
    arguments = parser.parse_args()
    print_rates(arguments.nights, arguments.prompts)


if __name__ == "__main__":
    main()
