"""Measures vgen's overhead per job, beside a bare Celery chain of as many empty tasks.

``python -m bench.orchestration [--jobs 1000] [--gpu-workers 1 4 16]`` starts PostgreSQL, Redis and the workers itself;
``--costs`` adds what a job costs by process (milliseconds of a core) and, in a run of its own, by statement.
Both sides run prefork workers on the same Redis, of one child each: an io and a cpu worker and one or more for the GPU
queue; the bare chain has three. The line's stages are the real tasks, claims and finishes, with stage functions that do
nothing; the bare chain has a Redis result backend, as most users have.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from celery import Celery, chain

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.parts.costs import core_ms, log_statements, statement_table  # noqa: E402
from db import schema  # noqa: E402
from db.clips import batches  # noqa: E402
from db.session import Database  # noqa: E402
from pipeline.prompts import parse_bytes  # noqa: E402
from pipeline.settings import Settings, load_settings  # noqa: E402
from pipeline.spec import BatchOptions  # noqa: E402
from pipeline.states import TERMINAL_JOB_STATES, JobState  # noqa: E402
from tests import servers  # noqa: E402
from tests.servers import Server  # noqa: E402

GPU_TYPE = "idle-gpu"
OPTIONS = "-P prefork -c 1 -l ERROR --without-mingle --without-gossip"
CLIP_S = 60
"""The seconds that a real clip keeps its GPU, for the number of GPUs that one control plane can keep busy."""


def roles(gpu_workers: int) -> dict[str, str]:
    """Queues by the names of the workers."""
    others = {"cpu": "vgen.cpu,vgen.encode.bench", "io": "vgen.io"}
    return {f"gpu{number}": f"vgen.gpu.{GPU_TYPE}" for number in range(gpu_workers)} | others


def start_workers(application: str, roles: dict[str, str], env: dict[str, str]) -> list[subprocess.Popen[bytes]]:
    return [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "celery",
                "-A",
                application,
                "worker",
                *f"-n {role}@%h -Q {queues} {OPTIONS}".split(),
            ],
            env=env,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        for role, queues in roles.items()
    ]


def stop_workers(workers: list[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    for worker in workers:
        worker.wait(timeout=60)


def line_seconds(
    jobs: int,
    gpu_workers: int,
    database_url: str,
    redis_url: str,
    home: Path,
    *,
    before: Callable[[dict[str, int]], None] = lambda pids: None,
    after: Callable[[dict[str, int]], None] = lambda pids: None,
) -> float:
    """Wall time from a stored batch to its last finished job; the callbacks get the workers' pids by role."""
    env = {
        **os.environ,
        "VGEN_DATABASE_URL": database_url,
        "VGEN_BROKER_URL": redis_url,
        "VGEN_HOME": str(home),
        "VGEN_GPU_TYPE": GPU_TYPE,
    }
    database = Database(database_url)
    schema.upgrade(database)
    settings = load_settings(home=home, preset="idle")
    text = "".join(f"prompt {number}\n" for number in range(jobs)).encode()
    submission = parse_bytes(text, "bench.txt", overrides={}, settings=settings)
    everyone = roles(gpu_workers)
    workers = start_workers("bench.parts.empty_stages", everyone, env)
    try:
        wait_until(lambda: _live(database) == len(everyone), 120)
        _warm_up(database, settings)
        pids = {role: worker.pid for role, worker in zip(everyone, workers, strict=True)}
        before(pids)
        with database.transaction() as session:
            stored = batches.submit(session, submission, name="bench", owner="bench", options=BatchOptions())
        start = time.perf_counter()
        wait_until(lambda: _ended(database, stored.batch_id) == jobs, 600)
        took = time.perf_counter() - start
        after(pids)
        with database.reading() as session:
            succeeded = batches.counts(session, [stored.batch_id])[stored.batch_id][JobState.SUCCEEDED]
        if succeeded != jobs:
            raise SystemExit(f"{jobs - succeeded} of {jobs} jobs did not succeed")
        return took
    finally:
        stop_workers(workers)
        database.close()


def _warm_up(database: Database, settings: Settings) -> None:
    """Make every GPU worker load the preset, as on a line that has been at work."""
    prompts = "".join(f"warm up {number}\n" for number in range(100)).encode()
    submission = parse_bytes(prompts, "warm-up.txt", overrides={}, settings=settings)
    with database.transaction() as session:
        stored = batches.submit(session, submission, name="warm-up", owner="bench", options=BatchOptions())
    wait_until(lambda: _ended(database, stored.batch_id) == len(submission.jobs), 300)


def _live(database: Database) -> int:
    from db import workers  # noqa: PLC0415

    with database.reading() as session:
        return len(workers.alive(session))


def _ended(database: Database, batch_id: str) -> int:
    with database.reading() as session:
        counts = batches.counts(session, [batch_id])[batch_id]
    return sum(counts[state] for state in TERMINAL_JOB_STATES)


def wait_until(condition: object, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise SystemExit(f"not done within {timeout_s} s")
        time.sleep(0.1)


def chain_seconds(jobs: int, redis_url: str) -> float:
    """Wall time from the first bare chain sent to the last one's end."""
    env = {**os.environ, "BENCH_REDIS_URL": redis_url}
    application = Celery("bare", broker=redis_url, backend=redis_url, set_as_current=False)
    workers = start_workers("bench.parts.bare_chain", {"a": "bare", "b": "bare", "c": "bare"}, env)
    try:
        warm = chain(*[application.signature("bare.empty", immutable=True, queue="bare")] * 5, app=application)
        warm.apply_async().get(timeout=60)
        start = time.perf_counter()
        results = [warm.apply_async() for _ in range(jobs)]
        for result in results:
            result.get(timeout=600)
        return time.perf_counter() - start
    finally:
        stop_workers(workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--gpu-workers", type=int, nargs="+", default=[1])
    parser.add_argument("--costs", action="store_true", help="also what a job costs by process and by statement")
    arguments = parser.parse_args()
    jobs: int = arguments.jobs
    print(f"machine: {os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}; {jobs} jobs")
    with servers.postgres_server() as postgres, servers.redis_server() as redis:
        bare = chain_seconds(jobs, redis.url)
        print(f"bare chain, 5 empty tasks, Redis results  {bare:7.1f} s  {bare / jobs * 1000:6.2f} ms a job")
        for count in arguments.gpu_workers:
            with servers.fresh_database(postgres) as url, tempfile.TemporaryDirectory() as home:
                servers.redis_command(redis.port, "FLUSHALL")
                line = line_seconds(jobs, count, url, redis.url, Path(home))
            print(
                f"durable line, {count:2} GPU workers             {line:7.1f} s  {line / jobs * 1000:6.2f} ms a job, "
                f"{line / bare:.2f} x; {jobs / line:.0f} jobs/s: {jobs / line * CLIP_S:.0f} GPUs at {CLIP_S} s a clip",
                flush=True,
            )
            if arguments.costs:
                _show_costs(jobs, count, postgres, redis)


def _show_costs(jobs: int, gpu_workers: int, postgres: Server, redis: Server) -> None:
    """Two runs more: logging statements costs time of its own, so that processes are measured without."""
    servers_pids = {"postgres": postgres.pid, "redis": redis.pid}
    used: list[Counter[str]] = []
    with servers.fresh_database(postgres) as url, tempfile.TemporaryDirectory() as home:

        def count(pids: dict[str, int]) -> None:
            used.append(core_ms(pids | servers_pids))

        line_seconds(jobs, gpu_workers, url, redis.url, Path(home), before=count, after=count)
    spent = {role: (milliseconds - used[0][role]) / jobs for role, milliseconds in used[1].items()}
    print(f"{sum(spent.values()):8.2f} ms of a core a job, by process:")
    for role, milliseconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{milliseconds:8.2f} ms  {role}")
    with servers.fresh_database(postgres) as url, tempfile.TemporaryDirectory() as home:
        places: list[int] = []

        def log(on: bool) -> None:
            log_statements(url, on=on)
            places.append(postgres.log_path.stat().st_size)

        line_seconds(
            jobs, gpu_workers, url, redis.url, Path(home), before=lambda _: log(True), after=lambda _: log(False)
        )
    written = postgres.log_path.read_bytes()[places[0] : places[1]]
    print(statement_table(written.decode("utf-8", "replace"), jobs), flush=True)


if __name__ == "__main__":
    main()
