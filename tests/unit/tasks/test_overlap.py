"""Steps that let their worker go before they have ended."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from tasks.worker.overlap import Overlap

PATIENCE_S = 60.0


def test_the_caller_goes_on_when_a_step_lets_go_and_one_step_at_most_overlaps_the_next() -> None:
    overlap, end, log = Overlap(), threading.Event(), list[str]()

    def slow(release_worker: Callable[[], None]) -> None:
        release_worker()
        assert end.wait(PATIENCE_S)
        log.append("slow")

    overlap.run(slow)
    overlap.run(lambda _: log.append("meanwhile"))
    overlap.run(slow)
    assert log == ["meanwhile"]
    threading.Timer(0.05, end.set).start()
    overlap.run(lambda _: log.append("last"))

    assert log[:2] == ["meanwhile", "slow"], "it ran while two did"
    overlap.wait(PATIENCE_S)
    assert sorted(log) == ["last", "meanwhile", "slow", "slow"]


def test_a_step_that_never_lets_go_is_waited_for_and_its_error_is_the_callers() -> None:
    def fail(_: Callable[[], None]) -> None:
        raise ValueError("before it let go")

    overlap = Overlap()
    with pytest.raises(ValueError, match="before it let go"):
        overlap.run(fail)


def test_an_error_after_letting_go_is_logged_and_the_next_step_runs(caplog: pytest.LogCaptureFixture) -> None:
    overlap, log = Overlap(), list[str]()

    def fail_late(release_worker: Callable[[], None]) -> None:
        release_worker()
        raise ValueError("after it let go")

    with caplog.at_level(logging.ERROR):
        overlap.run(fail_late)
        overlap.run(lambda _: log.append("next"))
        overlap.wait(PATIENCE_S)

    assert log == ["next"]
    assert "after it let go" in caplog.text
