"""A worker that was started again is the same GPU; two at once are two, whatever their names."""

from __future__ import annotations

import pytest

from db.reading.worker_places import Span, places

_FIRST, _SECOND = "gpu0-0a1b2c3d-11@h1", "gpu0-99999999-12@h1"


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([Span(_FIRST, 0, 10), Span(_SECOND, 10, 20)], {_FIRST: "gpu0@h1", _SECOND: "gpu0@h1"}),
        ([Span(_FIRST, 0, 10), Span(_SECOND, 5, 20)], {_FIRST: "gpu0@h1", _SECOND: "gpu0@h1 (2)"}),
        ([Span(_SECOND, 7, 9), Span(_FIRST, 0, 3), Span(_FIRST, 4, 8)], {_FIRST: "gpu0@h1", _SECOND: "gpu0@h1 (2)"}),
        ([Span("gpu1-0a1b2c3d-11@h1", 0, 1)], {"gpu1-0a1b2c3d-11@h1": "gpu1@h1"}),
        ([Span("", 0, 1), Span("gpu0", 0, 1)], {"": "", "gpu0": "gpu0"}),
    ],
)
def test_places(spans: list[Span], expected: dict[str, str]) -> None:
    assert places(spans) == expected
