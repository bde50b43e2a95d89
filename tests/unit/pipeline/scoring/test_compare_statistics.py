"""Intervals and tests of paired differences, against published tables and by what they promise over many samples."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.nightly import skewed
from bench.skew_tests import rates
from pipeline.scoring.compare.statistics import (
    ALPHA,
    BOOTSTRAP_FROM,
    bca,
    estimate,
    holm,
    median,
    skew_corrected,
    t_cdf,
    t_quantile,
)


@pytest.mark.parametrize(
    ("probability", "freedom", "value"),
    # Student's t table, three digits
    [(0.975, 1, 12.706), (0.975, 9, 2.262), (0.975, 30, 2.042), (0.95, 5, 2.015), (0.8, 9, 0.883), (0.999, 2, 22.327)],
)
def test_t_is_that_of_the_tables(probability: float, freedom: int, value: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(value, abs=6e-4)
    assert t_quantile(1 - probability, freedom) == -t_quantile(probability, freedom)
    assert t_cdf(t_quantile(probability, freedom), freedom) == pytest.approx(probability, abs=1e-9)


@pytest.mark.parametrize("probability", [0.50000001, 0.5001, 0.9984375, 0.9999999])
@pytest.mark.parametrize("freedom", [1, 2, 3, 39, 945])
def test_every_quantile_is_found(probability: float, freedom: int) -> None:
    assert t_cdf(t_quantile(probability, freedom), freedom) == pytest.approx(probability, abs=1e-10)
    if freedom == 1:  # Cauchy's distribution
        assert t_quantile(probability, 1) == pytest.approx(math.tan(math.pi * (probability - 0.5)), rel=1e-6)


def test_the_bootstrap_is_bca() -> None:
    # Given skewed values, and the BCa interval that scipy 1.17.1 has for them at the widened level (200,000 resamples)
    values = 1.2 - 40 * np.log1p(-(np.arange(40) + 0.5) / 40) / 20

    ends = [bca(values, 0.0, ALPHA, seed)[:2] for seed in range(20)]

    assert np.mean(ends, axis=0) == pytest.approx([2.6669, 3.9421], abs=0.012)
    assert np.std(ends, axis=0).max() < 0.03  # what another seed changes, of a width of 1.28


def test_few_prompts_have_students_interval() -> None:
    # Given mean 3, standard deviation sqrt(2.5) of five: 3 ± 2.776 sqrt(0.5)
    found = estimate([1.0, 2.0, 3.0, 4.0, 5.0], 0.0)

    assert found is not None
    assert (found.prompts, found.method, found.mean) == (5, "t", 3.0)
    assert (found.low, found.high) == (pytest.approx(3 - 1.9633, abs=1e-3), pytest.approx(3 + 1.9633, abs=1e-3))
    assert found.detectable == pytest.approx((2.7764 + 0.9410) * 0.5**0.5 * (1 + 12 / 25), abs=1e-3)


def test_the_bootstrap_begins_at_32_prompts_and_is_the_same_for_the_same_seed() -> None:
    values = np.random.default_rng(3).normal(size=BOOTSTRAP_FROM)
    few, many = estimate(values[:-1], 0.0), estimate(values, 0.0, seed=7)
    assert few is not None
    assert many is not None
    assert (few.method, many.method) == ("t", "bootstrap")
    assert many == estimate(values, 0.0, seed=7)
    assert many != estimate(values, 0.0, seed=8)


@pytest.mark.parametrize("count", [10, 40, 200])
@pytest.mark.parametrize("limit", [-0.6, -0.3, 0.1])
def test_the_test_and_the_interval_say_the_same(count: int, limit: float) -> None:
    for seed in range(8):
        values = np.random.default_rng(seed).gamma(2.0, 0.4, count) - 1.1
        found = estimate(values, limit)
        assert found is not None
        if abs(found.high - limit) > 1e-3:  # the bootstrap's steps
            assert (found.p_worse <= ALPHA) == (found.high < limit)


@pytest.mark.parametrize(("count", "samples"), [(10, 1500), (32, 600)])
def test_intervals_miss_the_truth_no_more_often_than_promised(count: int, samples: int) -> None:
    random = np.random.default_rng(5)
    found = [estimate(random.normal(size=count), 0.0, seed=sample) for sample in range(samples)]

    below = sum(one is not None and one.high < 0 for one in found) / samples
    above = sum(one is not None and one.low > 0 for one in found) / samples

    noise = 3 * (ALPHA * (1 - ALPHA) / samples) ** 0.5
    assert max(below, above) <= ALPHA + noise
    assert min(below, above) >= ALPHA - noise  # and they are no wider than they need be


def test_what_is_called_detectable_is_detected_8_times_of_10() -> None:
    random = np.random.default_rng(6)
    sample = random.normal(size=20)
    known = estimate((sample - sample.mean()) / sample.std(ddof=1), 0.0)  # of spread 1, as the samples' truth
    assert known is not None

    seen = [estimate(random.normal(-known.detectable, 1, 20), 0.0) for _ in range(800)]

    assert sum(one is not None and one.p_worse <= ALPHA for one in seen) / 800 == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("count", [6, 12, 31])
def test_a_long_tail_of_gains_raises_about_half_as_many_false_alarms_as_students_t_alone(count: int) -> None:
    for shape in ("exponential", "log-normal"):
        t_worse, worse, _, better = skewed(400, count, shape)
        assert worse <= 0.75 * t_worse
        assert better <= ALPHA


def test_no_better_known_test_keeps_the_promise_where_the_one_in_use_does_not() -> None:
    found = rates(600, 12, "exponential")
    wrong = {name: share for name, (share, _) in found.items()}
    power = {name: share for name, (_, share) in found.items()}
    assert min(wrong.values()) > ALPHA
    assert wrong["sign flips"] > 1.3 * wrong["judged"]  # it needs even differences, as Student's t does
    assert power["Johnson"] < power["judged"] - 0.05
    assert wrong["t and bootstrap-t"] == pytest.approx(wrong["judged"], abs=0.01)


@pytest.mark.parametrize("values", [[0.1, 0.2, -0.3, 0.5, 2.0, 0.1, 0.05], [-2.0, 0.1, 0.2, 0.15], [1.0, 3.0]])
def test_the_skew_is_taken_out_of_the_interval_and_the_test_alike(values: list[float]) -> None:
    numbers = np.array(values)
    low, high, _ = skew_corrected(numbers, 0.0, ALPHA)
    assert low < numbers.mean() < high
    assert skew_corrected(numbers, high, ALPHA)[2] == pytest.approx(ALPHA)
    assert skew_corrected(numbers, low, ALPHA)[2] == pytest.approx(1 - ALPHA)
    mirrored = skew_corrected(-numbers, 0.0, ALPHA)
    assert mirrored[:2] == pytest.approx((-high, -low))


def test_equal_differences_are_judged_by_their_number_alone() -> None:
    assert estimate([0.1], 0.0) is None
    assert estimate([], 0.0) is None
    for count in (1, 2, 5, 40):  # no loss at all is none, however few they are
        none = estimate([0.0] * count, -0.1)
        assert none is not None
        assert (none.method, none.low, none.high, none.p_worse) == ("equal", 0.0, 0.0, 1.0)
    assert estimate([-1.0] * 5, 0.0) is None  # five of one side: 1 in 32
    six = estimate([-1.0] * 6, -0.5)
    assert six is not None
    assert (six.method, six.low, six.high, six.p_worse) == ("sign", -1.0, -1.0, 1 / 64)


def test_holm_divides_the_chance_of_a_false_alarm() -> None:
    p_values = {"a": 0.006, "b": 0.012, "c": 0.03}
    assert holm(p_values) == {"a", "b"}  # 0.025/3, 0.025/2, then 0.03 > 0.025
    assert holm({**p_values, "b": 0.013}) == {"a"}
    assert holm(p_values, tests=5) == frozenset()  # two that could not be tested count too
    assert holm({}) == frozenset()


def test_median_of_an_even_number_is_between() -> None:
    assert median([4.0, 1.0, 2.0, 100.0]) == 3.0
