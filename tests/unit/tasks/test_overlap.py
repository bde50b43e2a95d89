"""Steps that let their worker go before they have ended."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from tasks.worker.overlap import Overlap

PATIENCE_S = 60.0


def test_the_caller_goes_on_when_a_step_lets_go_and_one_step_at_most_goes_on_beside_the_next() -> None:
    beside, end, told = Overlap(), threading.Event(), list[str]()

    def slow(let_go: Callable[[], None]) -> None:
        let_go()
        assert end.wait(PATIENCE_S)
        told.append("slow")

    beside.run(slow)
    beside.run(lambda _: told.append("beside it"))
    beside.run(slow)
    assert told == ["beside it"]
    threading.Timer(0.05, end.set).start()
    beside.run(lambda _: told.append("last"))

    assert told[:2] == ["beside it", "slow"], "it ran beside two"
    beside.wait(PATIENCE_S)
    assert sorted(told) == ["beside it", "last", "slow", "slow"]


def test_a_step_that_never_lets_go_is_waited_for_and_its_error_is_the_callers() -> None:
    def fail(_: Callable[[], None]) -> None:
        raise ValueError("before it let go")

    beside = Overlap()
    with pytest.raises(ValueError, match="before it let go"):
        beside.run(fail)


def test_an_error_after_letting_go_is_logged_and_the_next_step_runs(caplog: pytest.LogCaptureFixture) -> None:
    beside, told = Overlap(), list[str]()

    def fail_late(let_go: Callable[[], None]) -> None:
        let_go()
        raise ValueError("after it let go")

    with caplog.at_level(logging.ERROR):
        beside.run(fail_late)
        beside.run(lambda _: told.append("next"))
        beside.wait(PATIENCE_S)

    assert told == ["next"]
    assert "after it let go" in caplog.text
