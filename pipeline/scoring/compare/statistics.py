"""Means of paired differences: intervals, tests, and what a run of this size could have seen.

All tests are one-sided at ``alpha``; an interval has confidence 1 - 2 ``alpha``, so an interval wholly below a limit
and a test that finds the mean below it are the same statement.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import mpmath
import numpy as np
from numpy.typing import ArrayLike, NDArray

ALPHA = 0.025
"""One-sided: intervals are of 95 %."""
POWER = 0.8
BOOTSTRAP_FROM = 32
"""Prompts from which the spread of the prompts themselves stands in for a normal distribution."""
RESAMPLES = 10_000
_CHUNK = 1 << 20
"""Draws held at once: a suite of 946 prompts then needs 8 MB, not 76."""
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Estimate:
    """The mean of n paired differences, in the metric's own units; positive is better."""

    prompts: int
    mean: float
    low: float
    high: float
    p_worse: float
    """The p-value of the test that the mean lies below the limit; small: it does."""
    detectable: float
    """The distance below the limit that is detected with probability ``POWER``."""
    method: str
    """``t``, ``bootstrap``, ``sign`` where all differences are the same, or ``equal`` where all are 0."""


def t_cdf(value: float, freedom: int) -> float:
    """Student's distribution function, by the regularised incomplete beta function."""
    square = value * value
    if square < freedom:  # near the middle 1 - x would lose half the digits
        half = mpmath.betainc(0.5, freedom / 2, 0, square / (freedom + square), regularized=True) / 2
        return float(0.5 + half if value > 0 else 0.5 - half)
    tail = mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + square), regularized=True) / 2
    return float(1 - tail if value > 0 else tail)


@lru_cache(maxsize=1024)
def t_quantile(probability: float, freedom: int) -> float:
    """The value below which Student's variable lies with this probability, 0 < probability < 1."""
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    if probability == 0.5:
        return 0.0
    high = 2.0
    while t_cdf(high, freedom) < probability:
        high *= 2
    root = mpmath.findroot(
        lambda x: t_cdf(float(x), freedom) - probability, (0.0, high), solver="bisect", maxsteps=100, tol=1e-22
    )
    return float(root)


def estimate(
    differences: ArrayLike, limit: float, *, alpha: float = ALPHA, tests: int = 1, seed: int = 0
) -> Estimate | None:
    """The mean of one difference per prompt, and whether it lies below ``limit``.

    ``tests`` is how many metrics are gated together: ``detectable`` holds for the strictest level that Holm may ask.
    Where no prompt differs at all there is no loss, however few they are: the method is ``equal``. None when the
    spread is not known: fewer than two prompts, or too few that all differ by the same.
    """
    values = np.asarray(differences, dtype=np.float64)
    count = len(values)
    if count and not values.any():
        return Estimate(count, 0.0, 0.0, 0.0, 1.0, 0.0, "equal")
    if count < 2:
        return None
    mean = math.fsum(values) / count
    spread = float(np.std(values, ddof=1))
    if spread <= 1e-12 * max(1.0, abs(mean)):
        return _without_spread(count, mean, limit, alpha)
    error = spread / math.sqrt(count)
    freedom = count - 1
    detectable = detectable_deviations(count, alpha=alpha, tests=tests) * spread
    reach = t_quantile(1 - alpha, freedom) * error
    low, high, p_worse = mean - reach, mean + reach, t_cdf((mean - limit) / error, freedom)
    if count < BOOTSTRAP_FROM:
        # Both must say so: skewed losses made t alone wrong 7 to 11 times of 100 where 2.5 were promised.
        lower, higher, worse = skew_corrected(values, limit, alpha)
        low, high, p_worse = min(low, lower), max(high, higher), max(p_worse, worse)
        return Estimate(count, mean, low, high, p_worse, detectable, "t")
    # Both must say so: BCa alone raised 3.1 false alarms of 100 where 2.5 were promised (40 prompts, heavy tails).
    lower, higher, worse = bca(values, limit, alpha, seed)
    low, high, p_worse = min(low, lower), max(high, higher), max(p_worse, worse)
    return Estimate(count, mean, low, high, p_worse, detectable, "bootstrap")


def detectable_deviations(count: int, *, alpha: float = ALPHA, tests: int = 1) -> float:
    """The distance below the limit that is found with probability ``POWER``, of two prompts and more.

    In standard deviations of their differences, at the strictest level that Holm may ask of ``tests`` metrics. Below 32
    prompts the skew's correction costs power; what it costs even differences, as simulated, is ``1 + 12 / n²``.
    """
    freedom = count - 1
    plain = (t_quantile(1 - alpha / tests, freedom) + t_quantile(POWER, freedom)) / math.sqrt(count)
    return plain * (1 + 12 / count**2) if 3 <= count < BOOTSTRAP_FROM else plain


def skew_corrected(values: NDArray[np.float64], limit: float, alpha: float) -> tuple[float, float, float]:
    """Interval and p by Student's t of the mean, after Hall's transformation (1992) has taken out its skew.

    ``g(t) = t + skew (t² / 3 + 1 / 6) / √n + skew² t³ / (27 n)`` is about symmetric where t of skewed differences is
    not, and grows with t, so that it can be turned round. The skew is the unbiased estimate; of two prompts 0.
    """
    count, mean = len(values), float(values.mean())
    spread = float(np.std(values, ddof=1))
    error, root = spread / math.sqrt(count), math.sqrt(count)
    cubes = float(((values - mean) ** 3).sum()) / spread**3
    skew = 0.0 if count < 3 else cubes * count / ((count - 1) * (count - 2))

    def forward(t: float) -> float:
        return t + skew * (t * t / 3 + 1 / 6) / root + skew**2 * t**3 / (27 * count)

    def back(g: float) -> float:
        if abs(skew) < 1e-9:
            return g
        return 3 * root / skew * (math.cbrt(1 + skew * (g / root - skew / (6 * count))) - 1)

    reach = t_quantile(1 - alpha, count - 1)
    p_worse = t_cdf(forward((mean - limit) / error), count - 1)
    return mean - back(reach) * error, mean - back(-reach) * error, p_worse


def intervals(nights: NDArray[np.float64], alpha: float = ALPHA) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both ends of the interval of each row's mean, (nights, prompts) to two of (nights,), as ``estimate`` gives them.

    From 32 prompts on by Student's t alone: a bootstrap of each night would take minutes.
    """
    count = nights.shape[1]
    mean, spread = nights.mean(axis=1), nights.std(axis=1, ddof=1)
    error, reach = spread / math.sqrt(count), t_quantile(1 - alpha, count - 1)
    low, high = mean - reach * error, mean + reach * error
    if count < 3 or count >= BOOTSTRAP_FROM:
        return low, high
    safe = np.where(spread > 0, spread, 1.0)
    cubes = ((nights - mean[:, None]) ** 3).sum(axis=1) / safe**3
    skew = cubes * count / ((count - 1) * (count - 2))
    skew = np.where(np.abs(skew) < 1e-9, 1e-9, skew)
    root = math.sqrt(count)
    ends = [3 * root / skew * (np.cbrt(1 + skew * (g / root - skew / (6 * count))) - 1) for g in (reach, -reach)]
    return np.minimum(low, mean - ends[0] * error), np.maximum(high, mean - ends[1] * error)


def _without_spread(count: int, mean: float, limit: float, alpha: float) -> Estimate | None:
    """All prompts differ by the same: n prompts on one side by chance have probability 2^-n, whatever the spread."""
    chance = 0.5**count
    if chance > alpha:
        return None
    return Estimate(count, mean, mean, mean, chance if mean < limit else 1.0, 0.0, "sign")


def resample(values: NDArray[np.float64], seed: int, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Sorted means of as many prompts drawn with replacement, shape (resamples,)."""
    random = np.random.default_rng(seed)
    step = max(1, _CHUNK // len(values))
    parts = [
        values.take(random.integers(0, len(values), (min(step, resamples - start), len(values)), np.int32)).mean(axis=1)
        for start in range(0, resamples, step)
    ]
    return np.sort(np.concatenate(parts))


def bca(values: NDArray[np.float64], limit: float, alpha: float, seed: int) -> tuple[float, float, float]:
    """Interval and p by BCa (Efron 1987), widened for few prompts.

    The bootstrap's spread is that of n, not n - 1, and its tails are normal: the level is taken from Student's t times
    sqrt(n / (n - 1)) (Hesterberg 2015, section 5.3), or 40 prompts would raise 3 false alarms where 2.5 were promised.
    """
    count = len(values)
    means = resample(values, seed)
    centred = values - values.mean()
    skew = float((centred**3).sum() / (6 * (centred**2).sum() ** 1.5))
    bias = skew  # for a mean it is the same number; that of the resamples would add their noise to both ends
    widen = math.sqrt(count / (count - 1))
    ends = []
    for probability in (alpha, 1 - alpha):
        shifted = bias + widen * t_quantile(probability, count - 1)
        level = _NORMAL.cdf(bias + shifted / max(1 - skew * shifted, 0.05))
        ends.append(float(np.quantile(means, level)))
    # The same formula solved for the level at which the upper end would meet the limit.
    offset = _z(_share_below(means, limit), len(means)) - bias
    reached = offset / max(1 + skew * offset, 0.05) - bias
    return ends[0], ends[1], 1 - t_cdf(reached / widen, count - 1)


def _share_below(ordered: NDArray[np.float64], value: float) -> float:
    """Ties count half."""
    left, right = np.searchsorted(ordered, value, "left"), np.searchsorted(ordered, value, "right")
    return float(left + right) / 2 / len(ordered)


def _z(share: float, resamples: int) -> float:
    """A share of 0 or 1 says no more than that the resamples did not reach so far."""
    return _NORMAL.inv_cdf(min(max(share, 0.5 / resamples), 1 - 0.5 / resamples))


def holm(p_values: Mapping[str, float], alpha: float = ALPHA, tests: int | None = None) -> frozenset[str]:
    """The names whose test is passed when the chance of any false one is to be at most ``alpha`` (Holm 1979).

    ``tests`` counts those planned: one that could not be made still takes its part.
    """
    total = max(len(p_values), tests or 0)
    passed = []
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if p > alpha / (total - rank):
            break
        passed.append(name)
    return frozenset(passed)


def median(values: Sequence[float]) -> float:
    """Return the median of at least one value."""
    return float(np.median(np.asarray(values, dtype=np.float64)))
