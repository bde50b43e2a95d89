"""`vgen worker` that is killed leaves nobody behind who works for ever without being looked after."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.cluster import running_cluster, wait_for


@pytest.mark.slow
def test_workers_whose_parent_was_killed_drain_and_end(tmp_path: Path) -> None:
    with running_cluster(tmp_path, VGEN_WORKER_GRACE_S="1") as cluster:
        cluster.start_worker()
        assert cluster.worker is not None

        os.kill(cluster.worker.pid, signal.SIGKILL)

        cluster.worker.wait(10)
        wait_for(lambda: not cluster.processes(), f"every worker ends\n{cluster.log}", 60)
