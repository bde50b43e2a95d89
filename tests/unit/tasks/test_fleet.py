"""What a host's workers are for."""

from __future__ import annotations

import pytest

from pipeline.plan import encode_slots


@pytest.mark.parametrize(("cores", "threads", "slots"), [(1, 2, 2), (2, 2, 2), (16, 2, 9), (16, 5, 4)])
def test_one_clip_more_is_encoded_than_fills_the_cores(cores: int, threads: int, slots: int) -> None:
    assert encode_slots(cores, threads) == slots
