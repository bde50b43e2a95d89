"""RAFT where the likenesses of a pair do not fit into memory, and where several pairs are compared at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from pipeline.scoring import Clip, Models
from pipeline.scoring.models.raft import CORRELATION_BYTES, Raft, correlation_of, pyramid_bytes


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (19, 16)])
def test_likenesses_computed_where_they_are_looked_at_are_those_of_the_whole_pyramid(size: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(7)
    first, second = (torch.randn((2, 32, *size), generator=random) for _ in range(2))
    place = torch.rand((2, 2, *size), generator=random) * (max(size) + 8) - 4  # some lie outside
    whole = correlation_of(first, second, CORRELATION_BYTES).around(place)
    for most_bytes in (1, 200_000, pyramid_bytes(*size)):
        parts = correlation_of(first, second, most_bytes)
        assert type(parts).__name__ == "_Sampled"
        torch.testing.assert_close(parts.around(place), whole, rtol=1e-4, atol=2e-6)


def test_a_flow_does_not_depend_on_memory_or_on_how_many_pairs_are_compared_at_once(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.random.default_rng(7).integers(0, 256, (4, 130, 132, 3), np.uint8)  # padded to 136 x 136
    network = models.get("raft")._network
    pairs = [*itertools.pairwise(range(len(frames))), (0, 3)]
    alone = [flow for pair in pairs for flow in Raft(network, "cpu").flows(frames, [pair])]

    for most_bytes, together in ((CORRELATION_BYTES, 3), (1, 1)):
        monkeypatch.setattr(Raft, "_together", lambda *_, count=together: count)
        flows = list(Raft(network, "cpu", most_bytes).flows(frames, pairs))
        for ours, wanted in zip(flows, alone, strict=True):
            torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_the_features_of_a_frame_are_computed_once(
    models: Models, clip_of: Callable[[str], Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = models.get("raft")._network
    counted: list[int] = []
    features = network.features
    monkeypatch.setattr(network, "features", lambda images: counted.append(len(images)) or features(images))
    pairs = [(0, 1), (1, 2), (0, 2), (2, 0)]

    assert len(list(Raft(network, "cpu").flows(clip_of("three_frames").frames, pairs))) == 4

    assert sum(counted) == 3


def test_a_pair_of_4k_needs_a_hundredth_of_the_whole_pyramid() -> None:
    assert pyramid_bytes(2160 // 8, 3840 // 8) > 80e9
    assert pyramid_bytes(720 // 8, 1280 // 8) < CORRELATION_BYTES
