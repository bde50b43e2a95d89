"""Deadlines as people write them."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from pipeline.policy.deadlines import parse_deadline

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 3, 28, 22, 30, tzinfo=BERLIN)
"""The evening before clocks go from 2:00 to 3:00."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("07:00", "2026-03-29T07:00:00+02:00"),
        ("7:00", "2026-03-29T07:00:00+02:00"),
        ("22:30", "2026-03-29T22:30:00+02:00"),
        ("22:31", "2026-03-28T22:31:00+01:00"),
        ("2026-04-01T07:00", "2026-04-01T07:00:00+02:00"),
        ("2026-04-01 07:00", "2026-04-01T07:00:00+02:00"),
        ("2026-04-01T07:00Z", "2026-04-01T07:00:00+00:00"),
        (" +3h ", "2026-03-29T01:30:00+01:00"),
        ("+1d2h30m", "2026-03-30T01:00:00+02:00"),
    ],
)
def test_a_moment_is_the_next_such(text: str, expected: str) -> None:
    assert parse_deadline(text, NOW, BERLIN).isoformat() == expected


def test_a_night_that_loses_an_hour_is_an_hour_shorter() -> None:
    found = parse_deadline("07:00", NOW, BERLIN)

    assert found.timestamp() - NOW.timestamp() == timedelta(hours=7, minutes=30).total_seconds()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "24:00",
        "7",
        "07:60",
        "+",
        "+3",
        "3h",
        "+3h2d",
        "-3h",
        "2026-04-01",
        "2026-13-01T07:00",
        "+9999d" * 2,
    ],
)
def test_anything_else_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a valid time: use a time such as 07:00"):
        parse_deadline(text, NOW, BERLIN)


@pytest.mark.parametrize("text", ["2026-03-28T22:30", "2020-01-01T00:00Z", "+0h"])
def test_what_does_not_lie_ahead_is_refused_with_the_time_it_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"is in the past: it is 2026-03-28 22:30\+01:00 now"):
        parse_deadline(text, NOW, BERLIN)


def test_this_hosts_zone_is_meant_where_none_is_named() -> None:
    now = datetime.now().astimezone()

    found = parse_deadline("07:00", now)

    assert (found.astimezone().hour, found.astimezone().minute) == (7, 0)
    assert timedelta(0) < found - now <= timedelta(hours=25)
