"""Two containers of one host name, in each of which ``vgen worker`` is process 1: Linux namespaces, no engine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.cluster import VGEN, Cluster, running_cluster, wait_for
from tests.die_with_parent import dying_with_us

UNSHARE = ("unshare", "--pid", "--uts", "--mount", "--fork", "--mount-proc", "--kill-child")


def _can_unshare() -> bool:
    return shutil.which("unshare") is not None and (
        subprocess.run([*UNSHARE, "true"], capture_output=True, check=False, timeout=20).returncode == 0
    )


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _can_unshare(), reason="this user may not make PID and UTS namespaces"),
]


@contextmanager
def container(cluster: Cluster, name: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process 1 of a host called ``box``; its log is ``NAME.log``."""
    script = 'hostname box && exec "$@"'
    program = [str(shutil.which("unshare")), *UNSHARE[1:], "sh", "-c", script, "sh", *command]
    with (cluster.folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            dying_with_us(program, signal.SIGKILL),
            env={**cluster.env, "VGEN_HANDOFF_DIR": str(cluster.folder / name)},
            cwd=cluster.folder,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()  # and with it, all that lives in its namespace
        process.wait(20)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("containers")) as cluster:
        yield cluster


def _file(folder: Path) -> Path:
    file = folder / "prompts.txt"
    file.write_text("#: preset = idle\n" + "".join(f"clip {number}\n" for number in range(6)), "utf-8")
    return file


def test_workers_of_one_host_name_and_process_id_are_two(cluster: Cluster) -> None:
    worker = (*VGEN, "worker")
    with ExitStack() as stack:
        first = stack.enter_context(container(cluster, "first", *worker))
        stack.enter_context(container(cluster, "second", *worker))

        # Then each has its rows, although host and process ids are the same
        everybody = "SELECT name, host, pid FROM workers WHERE name LIKE '%@box'"
        wait_for(lambda: len(cluster.rows(everybody)) == 6, "six workers report")
        assert {host for _, host, _ in cluster.rows(everybody)} == {"box"}
        names = cluster.rows("SELECT name FROM workers WHERE name LIKE 'gpu0-%'")
        assert len(names) == 2

        # And both work, one lease a step
        assert cluster.vgen("submit", str(_file(cluster.folder)), "--wait").returncode == 0
        assert cluster.job_states() == {"succeeded": 6}
        twice = "SELECT step_id, attempt FROM stage_runs GROUP BY step_id, attempt HAVING count(*) > 1"
        assert cluster.rows(twice) == []

        # And the end of one takes nothing from the other
        os.kill(_process_1(first.pid), signal.SIGTERM)
        assert first.wait(60) == 0
        wait_for(lambda: len(cluster.rows(everybody)) == 3, "the first has signed off")
        assert cluster.vgen("submit", str(_file(cluster.folder)), "--again", "--wait").returncode == 0


def _process_1(unshare: int) -> int:
    """The child of ``unshare``, as this host counts it."""
    children = Path(f"/proc/{unshare}/task/{unshare}/children").read_text("utf-8").split()
    return int(children[0])
