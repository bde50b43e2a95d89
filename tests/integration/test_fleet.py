"""The workers of one `vgen worker`: forks of it that share nothing, are looked after, and end with it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster, running_cluster, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("fleet"), VGEN_WORKER_GRACE_S="1") as cluster:
        cluster.start_worker()
        yield cluster


def _worker(cluster: Cluster, role: str) -> int | None:
    """Process of the role's worker, the leader of its group; None while there is none."""
    found = [pid for pid, command in cluster.processes().items() if command.startswith(f"[vgen-{role}]")]
    return next((pid for pid in found if os.getpgid(pid) == pid), None)


def test_one_thread_forks_them(cluster: Cluster) -> None:
    # A lock that another thread held would be held for ever in the fork.
    assert cluster.worker is not None
    assert len(list(Path(f"/proc/{cluster.worker.pid}/task").iterdir())) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_one_that_is_told_to_stop_stops_alone_and_another_takes_its_place(
    number: signal.Signals, cluster: Cluster
) -> None:
    told, other = _worker(cluster, "cpu"), _worker(cluster, "io")

    assert told is not None
    os.kill(told, number)

    wait_for(lambda: told not in cluster.processes(), "it ends")
    wait_for(lambda: _worker(cluster, "cpu") not in (told, None), "another is started")
    assert _worker(cluster, "io") == other
    assert cluster.one("SELECT count(*) FROM workers WHERE draining AND name NOT LIKE 'cpu-%'") == 0


def test_celery_says_nothing_of_the_user(cluster: Cluster) -> None:
    assert "superuser" not in cluster.log  # which Celery says to root, once for each worker
    assert "--uid" not in cluster.log


def test_they_drain_and_end_when_the_terminal_closes(cluster: Cluster) -> None:
    assert cluster.worker is not None

    cluster.worker.send_signal(signal.SIGHUP)

    assert cluster.worker.wait(60) == 0
    wait_for(lambda: not cluster.processes(), f"every worker ends\n{cluster.log}", 60)
    assert cluster.one("SELECT count(*) FROM workers") == 0


def test_with_nohup_they_work_on_when_the_terminal_closes(cluster: Cluster) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # inherited, as from nohup
    try:
        cluster.start_worker()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert cluster.worker is not None
    everybody = set(cluster.processes())
    names = cluster.rows("SELECT name FROM workers ORDER BY name")

    for pid in everybody:
        os.kill(pid, signal.SIGHUP)

    time.sleep(2.0)  # in which one that hears it has begun to drain
    assert set(cluster.processes()) == everybody
    assert cluster.worker.poll() is None
    assert cluster.rows("SELECT name FROM workers WHERE NOT draining ORDER BY name") == names


def test_they_drain_and_end_when_it_is_killed(cluster: Cluster) -> None:
    assert cluster.worker is not None

    os.kill(cluster.worker.pid, signal.SIGKILL)

    cluster.worker.wait(10)
    wait_for(lambda: not cluster.processes(), f"every worker ends\n{cluster.log}", 60)
