"""The stored corner-case clips, tiny weights of the real architectures, and what the official code says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pipeline.scoring import Clip, Models, Weights, read_clip
from tests.data.vbench_oracle import tiny_weights

DATA = Path(tiny_weights.__file__).parent


@pytest.fixture(autouse=True)
def _no_hub_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user of this machine has in the hub cache must not decide."""
    monkeypatch.setattr("pipeline.scoring.weights.try_to_load_from_cache", lambda *_: None)


@pytest.fixture(scope="session")
def oracle() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "scores.json").read_text("utf-8"))
    return found


@pytest.fixture(scope="session")
def weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    tiny_weights.write_all(folder)
    return folder


@pytest.fixture(scope="session")
def models(weights_folder: Path) -> Models:
    """Loaded once for all tests of this process."""
    return Models(Weights(weights_folder))


@pytest.fixture(scope="session")
def dreamsim_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights directory of its own, since its DINO has another depth."""
    folder = tmp_path_factory.mktemp("dreamsim")
    tiny_weights.write_dreamsim(folder)
    return folder


@pytest.fixture(scope="session")
def clip_of() -> Callable[[str], Clip]:
    return cache(lambda name: read_clip(DATA / "clips" / f"{name}.mp4"))
