"""A cluster with several hosts for fault tests: real servers behind proxies, and `vgen worker` processes."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import psycopg

from cli.batches import prompt_file
from cli.options import BatchChoices, FieldOptions
from db import schema
from db.clips.batches import Limits
from db.session import Database
from pipeline.settings import Settings, load_settings
from pipeline.storage.base import Storage
from pipeline.wiring import make_storage
from service import submission
from tests import servers
from tests.cluster import QUICK, REPOSITORY, wait_for
from tests.faults.host import WORKERS_A_HOST, Host
from tests.faults.http_clients import Server as HttpServer
from tests.faults.proxy import Proxies, Proxy, StoreProxy, running_proxies
from tests.line_helpers import write_jobs
from tests.rows import Rows
from tests.servers import Bucket, Server

IDLE_STEP_S = "0.05"
"""A clip of the default four steps takes 0.2 s; a job that is to be hit in the middle asks for more steps."""
CLOCK = str(REPOSITORY / "tests" / "faults" / "clock")


def _lives(pid: int) -> bool:
    """A zombie does not: nobody may be there to reap what a killed host leaves."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


@dataclass
class World:
    """Servers, the proxies before them, and hosts."""

    postgres: Server
    redis: Server
    s3: Server
    bucket: Bucket
    proxies: Proxies
    database_proxy: Proxy
    broker_proxy: Proxy
    store_proxy: StoreProxy
    database_url: str
    folder: Path
    env: dict[str, str]
    database: Database
    settings: Settings
    hosts: dict[str, Host] = field(default_factory=dict)
    servers: list[HttpServer] = field(default_factory=list)
    """What answers over HTTP, behind the same proxies."""
    _batches: int = 0

    def __post_init__(self) -> None:
        self._rows = Rows(self.database_url)

    @cached_property
    def store(self) -> Storage:
        """Past the proxy."""
        return make_storage(self.settings)

    def host(self, name: str, **env: str) -> Host:
        """A host that does not run yet."""
        folder = self.folder / name
        folder.mkdir()
        home = {"VGEN_HOME": str(folder / "home"), "VGEN_TEST_CLOCK_FILE": str(folder / "clock")}
        home["VGEN_FAILPOINTS"] = f"@{folder / 'failpoints'}"
        self.hosts[name] = Host(name, folder, {**self.env, **home, **env})
        return self.hosts[name]

    def serve(self, count: int, config: str = "") -> None:
        """Have so many servers answer over HTTP; new ones with that text as the file of ``--config``."""
        for _ in range(count - len(self.servers)):
            server = HttpServer(self.folder / f"server{len(self.servers)}", self.env, config)
            server.start()
            self.servers.append(server)
        for server in self.servers:
            wait_for(lambda server=server: server.url, f"a server answers\n{server.log[-3000:]}")  # type: ignore[misc]

    def start(self, *hosts: Host, **env: str) -> None:
        """Start hosts and wait until all their workers report."""
        for host in hosts:
            host.start(**env)
        self.wait_ready(*hosts)

    def wait_ready(self, *hosts: Host) -> None:
        for host in hosts:
            wait_for(partial(self.whole, host), f"{host.name} reports\n{host.log[-3000:]}")

    def whole(self, host: Host) -> bool:
        """Whether the host runs, and all its workers have reported and live."""
        if host.process is None or host.process.poll() is not None:
            return False
        pids = [pid for (pid,) in self.rows(f"SELECT pid FROM workers WHERE name LIKE '%-{host.pid}@%'")]
        return len(pids) == WORKERS_A_HOST and all(map(_lives, pids))

    def make_whole(self) -> None:
        """Every host at work: no worker waits to be started again, no dead one counts as alive, and all hold the model.

        Else how many hosts take part in a test would depend on how long the clips of the tests before it were.
        """
        broken = [host for host in self.hosts.values() if not self.whole(host)]
        for host in broken:
            host.kill()
        for name, pid in self.rows("SELECT name, pid FROM workers"):
            if not _lives(pid):
                self.execute(f"DELETE FROM workers WHERE name = '{name}'")
        self.start(*broken)
        now = "EXTRACT(EPOCH FROM clock_timestamp()) * 1000"
        mine = "gpu_type IS NOT NULL AND assigned_preset IS DISTINCT FROM 'idle'"
        self.execute(f"UPDATE workers SET assigned_preset = 'idle', assigned_since = {now} WHERE {mine}")
        holding = "SELECT count(*) FROM workers WHERE loaded = 'idle'"
        wait_for(lambda: self.one(holding) == len(self.hosts), f"all hold the model\n{self.logs()}")

    def submit(self, lines: Sequence[Mapping[str, Any]], limits: Limits | None = None, **choices: Any) -> str:
        """Store a batch as `vgen submit` does, past the proxies; its id."""
        self._batches += 1
        full = [{"preset": "idle", "seed": 100 * self._batches + n, **line} for n, line in enumerate(lines)]
        file = write_jobs(self.folder / f"batch{self._batches}.jsonl", full)
        chosen = BatchChoices(**choices)
        parsed = prompt_file.read(str(file), FieldOptions(), self.settings)
        options = submission.batch_options(chosen, self.settings)
        stored = submission.store(
            parsed, options, settings=self.settings, database=self.database, again=True, limits=limits
        )
        return stored.batch_id

    def submit_under(self, key: str, lines: Sequence[Mapping[str, Any]]) -> str:
        """The same, under a submission key, on connections of its own: for several threads at once."""
        full = [{"preset": "idle", "seed": number, **line} for number, line in enumerate(lines)]
        folder = Path(tempfile.mkdtemp(prefix=f"{key}-", dir=self.folder))
        chosen = BatchChoices(key=key, name=key)
        parsed = prompt_file.read(str(write_jobs(folder / "same.jsonl", full)), FieldOptions(), self.settings)
        options = submission.batch_options(chosen, self.settings)
        database = Database(self.database_url)
        try:
            stored = submission.store(parsed, options, settings=self.settings, database=database, key=key)
        finally:
            database.close()
        return stored.batch_id

    def clips(self, count: int, *, steps: int = 4, name: str = "clip") -> str:
        """Submit idle clips of so many steps of ``IDLE_STEP_S``."""
        return self.submit([{"prompt": f"{name} {n}", "num_inference_steps": steps} for n in range(count)])

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self._rows.read(query)

    def one(self, query: str) -> Any:
        return self.rows(query)[0][0]

    def execute(self, statement: str) -> None:
        """Past the proxies, outside any transaction."""
        with psycopg.connect(
            self.database_url.replace("+psycopg", ""),
            autocommit=True,
            connect_timeout=5,
            options="-c default_transaction_read_only=off",
        ) as connection:
            connection.execute(statement.encode())

    def redis_command(self, command: str) -> bytes:
        return servers.redis_command(self.redis.port, command)

    def denoising(self, batch_id: str) -> list[tuple[str, int, str]]:
        """(job, attempt, worker) of the batch's clips that are past their first step."""
        query = f"""SELECT job_id, attempt, worker FROM steps WHERE batch_id = '{batch_id}'
            AND stage = 'generate' AND state = 'running' AND progress_step > 0"""
        return [(str(job), int(attempt), str(worker)) for job, attempt, worker in self.rows(query)]

    def host_of(self, worker: str) -> Host:
        """Whose worker this is, by the parent's pid in its name."""
        return next(host for host in self.hosts.values() if host.process and f"-{host.pid}@" in worker)

    def wait_denoising(self, batch_id: str) -> tuple[str, int, Host]:
        """The first (job, attempt, host) of the batch that denoises."""
        seen: list[tuple[str, int, str]] = []

        def look() -> bool:
            seen[:] = self.denoising(batch_id)
            return bool(seen)

        wait_for(look, f"a clip of {batch_id} denoises\n{self.logs()}")
        job, attempt, worker = seen[0]
        return job, attempt, self.host_of(worker)

    def ended(self, *batches: str) -> bool:
        listed = ", ".join(f"'{batch_id}'" for batch_id in batches)
        open_states = "('waiting', 'in_flight')"
        return not self.one(f"SELECT count(*) FROM jobs WHERE batch_id IN ({listed}) AND state IN {open_states}")

    def wait_ended(self, *batches: str, patience_s: float = 100.0) -> None:
        def still() -> str:
            listed = ", ".join(f"'{batch_id}'" for batch_id in batches)
            return str(
                self.rows(
                    f"""SELECT j.id, j.state, s.stage, s.state, s.attempt, s.queue, s.worker, s.error_code, s.error
                    FROM jobs j JOIN steps s ON s.job_id = j.id
                    WHERE j.batch_id IN ({listed}) AND j.state IN ('waiting', 'in_flight')
                    AND s.state NOT IN ('done', 'skipped')"""
                )
            )

        give_up = time.monotonic() + patience_s
        while not self.ended(*batches):
            assert time.monotonic() < give_up, f"not ended in {patience_s:g} s: {still()}\n{self.logs()}"
            time.sleep(0.1)

    def wait_done(self, batch_id: str) -> None:
        """Wait until the batch has ended; every job of it has succeeded."""
        self.wait_ended(batch_id)
        states = {row[0] for row in self.rows(f"SELECT state FROM jobs WHERE batch_id = '{batch_id}'")}
        assert states == {"succeeded"}

    def generations(self, batch_id: str) -> int:
        """Ended attempts at generating, of all jobs of the batch."""
        return int(
            self.one(f"""SELECT count(*) FROM stage_runs r JOIN jobs j ON j.id = r.job_id
                WHERE j.batch_id = '{batch_id}' AND r.stage = 'generate'""")
        )

    def logs(self) -> str:
        return "\n".join(f"--- {host.name}\n{host.log[-3000:]}" for host in self.hosts.values())

    def heal(self) -> None:
        """Take every fault of servers, proxies, clocks and failpoints away."""
        for proxy in (self.database_proxy, self.broker_proxy, self.store_proxy):
            proxy.heal()
        for host in self.hosts.values():
            host.fail("")
            host.clock(0)
            host.signal(signal.SIGCONT)

    def close(self) -> None:
        for server in self.servers:
            server.kill()
        for host in self.hosts.values():
            host.signal(signal.SIGCONT)
            host.kill()
        self._rows.close()
        self.database.close()


@contextlib.contextmanager
def running_world(folder: Path, **env: str) -> Iterator[World]:
    """Servers with an upgraded, empty database, behind proxies; no host yet."""
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(servers.postgres_server())
        redis = stack.enter_context(servers.redis_server())
        s3 = stack.enter_context(servers.rclone_s3_server())
        url = stack.enter_context(servers.fresh_database(postgres))
        proxies = stack.enter_context(running_proxies())
        world = _make(folder, postgres, redis, s3, url, proxies, env)
        try:
            yield world
        finally:
            world.close()


def _make(
    folder: Path, postgres: Server, redis: Server, s3: Server, url: str, proxies: Proxies, env: Mapping[str, str]
) -> World:
    bucket = servers.fresh_bucket(s3)
    database_proxy = Proxy(proxies, postgres.port)
    broker_proxy = Proxy(proxies, redis.port)
    store_proxy = StoreProxy(proxies, s3.port)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("VGEN_", "AWS_"))}
    through = {
        **clean,
        **QUICK,
        **Bucket(f"http://127.0.0.1:{store_proxy.port}", bucket.name).env,
        "PYTHONPATH": f"{CLOCK}{os.pathsep}{REPOSITORY}",
        "VGEN_DATABASE_URL": url.replace(f":{postgres.port}/", f":{database_proxy.port}/"),
        "VGEN_BROKER_URL": f"redis://127.0.0.1:{broker_proxy.port}/0",
        "VGEN_STREAM_CHUNKS_URL": f"redis://127.0.0.1:{broker_proxy.port}/0",
        "VGEN_STREAM_SESSIONS_PER_OWNER": "100",
        "VGEN_IDLE_STEP_S": IDLE_STEP_S,
        "VGEN_S3_TIMEOUT_S": "5",
        **env,
    }
    settings = load_settings(
        home=folder / "tests-own", database_url=url, broker_url=redis.url, storage=bucket.storage, s3=bucket.s3
    )
    database = Database(url)
    schema.upgrade(database)
    return World(
        postgres,
        redis,
        s3,
        bucket,
        proxies,
        database_proxy,
        broker_proxy,
        store_proxy,
        url,
        folder,
        through,
        database,
        settings,
    )


def until(true: Callable[[], object], what: str, patience_s: float = 60.0) -> None:
    """``wait_for`` with a shorter patience."""
    wait_for(true, what, patience_s)
