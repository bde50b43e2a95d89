"""A whole cluster for tests: real Postgres, Redis and S3 servers, and ``vgen worker`` as a process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from db.session import Database
from tests import forked_cli, servers
from tests.die_with_parent import dying_with_us
from tests.rows import Rows
from tests.rules import keeps_every_rule
from tests.servers import Server

REPOSITORY = Path(__file__).resolve().parent.parent
VGEN = (sys.executable, "-P", "-m", "cli.main")
QUICK = {
    "VGEN_WORKER_LEASE_S": "3",
    "VGEN_WORKER_RENEW_S": "1",
    "VGEN_WORKER_CONTROL_S": "0.5",
    "VGEN_WORKER_RECONCILE_S": "1",
    "VGEN_WORKER_GRACE_S": "10",
    "VGEN_GPU_TYPE": "cpu",
    "VGEN_LOG_LEVEL": "INFO",
}
"""Settings under which a fault is found and repaired in seconds, and an idle cluster leaves the CPU to the tests."""
PATIENCE_S = 90.0


def wait_for(true: Callable[[], object], what: str, patience_s: float = PATIENCE_S, *, every_s: float = 0.1) -> None:
    """Return when ``true()`` holds; fails the test when it does not in time."""
    give_up = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < give_up, f"in {patience_s:g} s it did not happen that {what}"
        time.sleep(every_s)


def processes(marker: str) -> dict[int, str]:
    """Live processes whose environment holds the marker: pid to ``[name] command line``."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if marker.encode() in (entry / "environ").read_bytes():
                    name, command = (entry / "comm").read_text().strip(), (entry / "cmdline").read_bytes()
                    found[int(entry.name)] = f"[{name}] {command.replace(bytes(1), b' ').decode()}"
    return found


@dataclass
class Cluster:
    """Servers that run, and at most one ``vgen worker``."""

    postgres: Server
    redis: Server
    s3: Server
    database_url: str
    folder: Path
    env: dict[str, str]
    worker: subprocess.Popen[bytes] | None = field(default=None)

    def __post_init__(self) -> None:
        self._rows = Rows(self.database_url)

    def vgen(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return forked_cli.run(arguments, env={**self.env, **env}, cwd=self.folder, timeout=PATIENCE_S)

    def json(self, *arguments: str) -> Any:
        done = self.vgen(*arguments, "--json")
        assert done.returncode in (0, 3), done.stderr
        return json.loads(done.stdout)

    def start_worker(self, *, workers: int = 3, **env: str) -> None:
        with (self.folder / "worker.log").open("ab") as log:
            self.worker = subprocess.Popen(
                dying_with_us([*VGEN, "worker"], signal.SIGTERM),
                env={**self.env, **env},
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        wait_for(lambda: self.one("SELECT count(*) FROM workers") == workers, f"{workers} workers report\n{self.log}")

    def stop_worker(self) -> int:
        assert self.worker is not None
        self.worker.send_signal(signal.SIGTERM)
        code = self.worker.wait(60)
        self.worker = None
        return code

    @property
    def log(self) -> str:
        path = self.folder / "worker.log"
        return path.read_text("utf-8", "replace")[-4000:] if path.exists() else ""

    @property
    def marker(self) -> str:
        return f"VGEN_HOME={self.env['VGEN_HOME']}"

    def processes(self) -> dict[int, str]:
        return processes(self.marker)

    def generators(self) -> list[int]:
        return [pid for pid, command in self.processes().items() if "pipeline.generators.process.child" in command]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self._rows.read(query)

    def one(self, query: str) -> Any:
        return self.rows(query)[0][0]

    def job_states(self) -> dict[str, int]:
        return dict(self.rows("SELECT state, count(*) FROM jobs GROUP BY state"))

    def keeps_every_rule(self) -> None:
        database = Database(self.database_url)
        try:
            keeps_every_rule(database)
        finally:
            database.close()

    def close(self) -> None:
        """End every process of the worker, also when a test left it half dead."""
        self._rows.close()
        if self.worker is not None and self.worker.poll() is None:
            self.worker.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.worker.wait(20)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.worker is not None:
            self.worker.wait(20)


@contextlib.contextmanager
def running_cluster(folder: Path, **env: str) -> Iterator[Cluster]:
    """A cluster with an upgraded, empty database and no worker yet."""
    with servers.postgres_server() as postgres, servers.redis_server() as redis, servers.rclone_s3_server() as s3:
        with servers.fresh_database(postgres) as url:
            bucket = servers.fresh_bucket(s3)
            clean = {name: value for name, value in os.environ.items() if not name.startswith(("VGEN_", "AWS_"))}
            everything = {
                **clean,
                **QUICK,
                **bucket.env,
                "PYTHONPATH": str(REPOSITORY),
                "VGEN_DATABASE_URL": url,
                "VGEN_BROKER_URL": redis.url,
                "VGEN_HOME": str(folder / "home"),
                **env,
            }
            cluster = Cluster(postgres, redis, s3, url, folder, everything)
            try:
                upgraded = cluster.vgen("db", "upgrade")
                assert upgraded.returncode == 0, upgraded.stderr
                yield cluster
                cluster.keeps_every_rule()
            finally:
                cluster.close()
