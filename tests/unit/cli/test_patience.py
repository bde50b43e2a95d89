"""Watchers outlive a database that is away; times are said as people say them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cli import times
from cli.batches.follow import Snapshot, follow
from cli.batches.patience import Patience
from pipeline.errors import ServiceUnavailableError

_NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class _Away:
    """A read that fails until its ``after``-th call."""

    def __init__(self, after: int) -> None:
        self.after, self.calls = after, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls < self.after:
            raise ServiceUnavailableError("the database is away")
        return "here"


class _Silent:
    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None: ...

    def show(self, snapshot: Snapshot) -> None: ...


def test_a_watcher_waits_for_a_database_and_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    read = _Away(after=4)
    assert Patience("it goes on").insist(read, lambda seconds: False) == "here"
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "still here" in said[0]
    assert "is back" in said[1]


def test_one_that_gives_up_says_what_goes_on() -> None:
    clock = iter(range(0, 1000, 10))
    patience = Patience("Batch b1 goes on: `vgen watch b1`", give_up_s=30, clock=lambda: next(clock))
    with pytest.raises(ServiceUnavailableError, match=r"gave up after .* s\. Batch b1 goes on: `vgen watch b1`"):
        patience.insist(_Away(after=99), lambda seconds: False)


def test_ctrl_c_ends_a_watcher_also_while_the_database_is_away() -> None:
    def away() -> Snapshot:
        raise ServiceUnavailableError("away")

    watched = follow(away, _Silent(), until=lambda _: True, wait=lambda _: True, patience=Patience("it goes on"))
    assert watched is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (35, "35 s"), (150, "2 min"), (7_260, "2 h 1 min"), (7_200, "2 h"), (200_000, "2 d 8 h")],
)
def test_spans(seconds: float, text: str) -> None:
    assert times.span(seconds) == text


def test_times_are_local_and_say_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    local = _NOW.astimezone()
    in_35_s = (_NOW + timedelta(seconds=35)).isoformat()
    assert times.left(in_35_s, _NOW) == f"about 35 s left ({local:%H:%M})"
    next_week = times.clock((_NOW + timedelta(days=7)).isoformat(), _NOW)
    assert next_week == f"{local + timedelta(days=7):%Y-%m-%d %H:%M}", "another day has its date"
    assert times.so_far((_NOW - timedelta(seconds=13)).isoformat(), _NOW) == "13 s so far"
