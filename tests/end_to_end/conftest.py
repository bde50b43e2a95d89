"""One cluster of real processes for a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import Cluster, running_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose worker runs."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as running:
        running.start_worker()
        yield running
