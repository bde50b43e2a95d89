"""One cluster of real processes for a module."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cluster import Cluster, running_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose worker runs, with a nightly of two prompts that nothing starts but a beat."""
    folder = tmp_path_factory.mktemp("cluster")
    suite = [{"prompt_en": f"night {n}", "dimension": ["temporal_flickering"]} for n in range(2)]
    (folder / "beat.json").write_text(json.dumps(suite), "utf-8")
    night = {"CRONTAB": "30 1 * * *", "PRESET": "idle", "SEEDS": "1", "METRICS": "checks.black"}
    told = {f"VGEN_NIGHTLY_{name}": value for name, value in night.items()}
    with running_cluster(folder, **told, VGEN_NIGHTLY_SUITE=f"{folder}/beat.json") as running:
        running.start_worker()
        yield running
