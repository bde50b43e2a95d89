from __future__ import annotations

import pytest

from pipeline.errors import FailureClass
from pipeline.policy.retry import MAX_OTHER, MAX_PROVEN, MAX_RETRYABLE, decide


@pytest.mark.parametrize("failure", list(FailureClass))
def test_every_class_of_failure_comes_to_an_end(failure: FailureClass) -> None:
    bound = {FailureClass.REFUSED: 1, FailureClass.RETRYABLE: MAX_RETRYABLE}.get(failure, MAX_OTHER)

    assert [decide(failure, count).again for count in range(1, bound + 3)] == [True] * (bound - 1) + [False] * 3


def test_delays_double_up_to_a_cap_and_are_spread_over_their_upper_half() -> None:
    longest = [decide(FailureClass.RETRYABLE, count, jitter=1.0).delay_ms for count in range(1, MAX_RETRYABLE)]
    shortest = [decide(FailureClass.RETRYABLE, count, jitter=0.0).delay_ms for count in range(1, MAX_RETRYABLE)]

    assert longest == [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000] + [120_000] * 6
    assert shortest == [delay // 2 for delay in longest]
    assert sum(shortest) > 7 * 60_000, "an outage of some minutes fails no job"
    for count, delay in enumerate(longest, start=1):
        assert delay // 2 <= decide(FailureClass.RETRYABLE, count).delay_ms <= delay


def test_a_job_that_crashes_twice_on_a_worker_that_is_sound_is_tried_no_more() -> None:
    assert decide(FailureClass.CRASH, 1, proven=True).again
    assert not decide(FailureClass.CRASH, MAX_PROVEN, proven=True).again
    assert decide(FailureClass.CRASH, MAX_PROVEN).again
    assert decide(FailureClass.FATAL, MAX_PROVEN, proven=True).again
