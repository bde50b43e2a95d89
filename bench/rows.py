"""Measures the timers' queries as tables grow: ``python -m bench.rows [--postgres 1000 100000 1000000]``.

Each size is a database of its own with ten batches: nine tenths of the jobs have been through the whole line, the rest
wait to be generated. Measured are a poll of the dispatcher that finds no room and one that dispatches, a poll of the
reconciler, a lease's renewal, a claim with its finish, and the counts of one batch and of all: the median of many. The
plan of every SELECT is looked at; one that reads a large table from end to end is named.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.orm import Session

from bench.parts.frames import FRAMES
from db import schema, workers
from db.clips import batches
from db.queue import finishing, leases, recovery
from db.scheduling import dispatch
from db.session import Database
from db.workers import WorkerReport
from pipeline.policy.routes import gpu_queue, need_of, preset_queue
from pipeline.prompts import parse_bytes
from pipeline.settings import load_settings
from pipeline.spec import BatchOptions
from pipeline.states import Stage
from pipeline.work import Claim, StageResult
from tests import servers

BATCHES = 10
GPU_TYPE = "bench-gpu"
LARGE = ("jobs", "steps", "stage_runs", "events")


def fill(database: Database, jobs: int) -> list[str]:
    """Ten batches, nine tenths of their jobs done; the ids of the batches."""
    settings = load_settings(preset="idle")
    ids = []
    for number in range(BATCHES):
        prompts = "".join(f"batch {number}, prompt {line}\n" for line in range(jobs // BATCHES)).encode()
        submission = parse_bytes(prompts, "bench.txt", overrides={}, settings=settings)
        with database.transaction() as session:
            stored = batches.submit(
                session, submission, name="bench", owner=f"owner {number % 3}", options=BatchOptions()
            )
        ids.append(stored.batch_id)
    with database.transaction() as session:
        for statement in _through_the_line():
            session.execute(text(statement), {"need": need_of(submission.jobs[0].spec)})
    # What autovacuum does on its own some seconds after so many changes.
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("ANALYZE" if database.is_sqlite else "VACUUM (ANALYZE)")
    return ids


def _through_the_line() -> Iterator[str]:
    columns = (
        "job_id, batch_id, roll, segment, priority, errors, crashes, losses, not_before, progress_step, "
        "progress_total, attempt, started_at, finished_at, queue"
    )
    values = "id, batch_id, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, created_at, created_at, 'vgen.bench'"
    yield "UPDATE jobs SET state = 'succeeded', finished_at = created_at WHERE seq % 10 <> 0"
    yield "UPDATE steps SET state = 'skipped', attempt = 1, started_at = 1, finished_at = 1, queue = 'vgen.bench'"
    for stage in ("generate", "encode", "publish"):
        yield (
            f"INSERT INTO steps (stage, state, {columns}) "
            f"SELECT '{stage}', 'done', {values} FROM jobs WHERE state = 'succeeded'"
        )
    waiting = values.replace("1, created_at, created_at, 'vgen.bench'", "0, NULL, NULL, NULL")
    yield (
        f"INSERT INTO steps (stage, state, need, {columns}) "
        f"SELECT 'generate', 'waiting', :need, {waiting} FROM jobs WHERE state = 'waiting'"
    )
    yield (
        "INSERT INTO stage_runs (step_id, job_id, stage, attempt, queue, started_at, ended_at, outcome) "
        "SELECT id, job_id, stage, 1, queue, started_at, finished_at, 'done' FROM steps WHERE state = 'done'"
    )


@contextmanager
def watched(database: Database, scans: set[str]) -> Iterator[None]:
    """While open, the plans of SELECTs are looked at, and those that read a large table whole are added."""
    explained: set[str] = set()

    def watch(connection: Connection, _: Any, statement: str, parameters: Any, *__: Any) -> None:
        if not statement.lstrip().startswith(("SELECT", "WITH")) or statement in explained:
            return
        explained.add(statement)
        explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
        for row in connection.exec_driver_sql(explain + statement, parameters):
            line = str(row[-1])
            for table in LARGE:
                whole = f"SCAN {table}" if database.is_sqlite else f"Seq Scan on {table}"
                if whole in line and "INDEX" not in line:
                    scans.add(f"{line.strip()}  <-  {' '.join(statement.split())[:160]}")

    event.listen(database.engine, "before_cursor_execute", watch)
    try:
        yield
    finally:
        event.remove(database.engine, "before_cursor_execute", watch)


def measure(database: Database, ids: list[str], rounds: int) -> tuple[dict[str, float], set[str]]:
    """Median milliseconds of each, and the scans that were seen."""
    queues = (gpu_queue(GPU_TYPE), preset_queue(GPU_TYPE, "idle"))

    def report(slots: int) -> None:
        with database.transaction() as session:
            workers.report(session, WorkerReport("bench", "host", 1, queues, slots=slots, gpu_type=GPU_TYPE))
            session.execute(text("UPDATE workers SET assigned_preset = 'idle', loaded = 'idle'"))

    def once(work: Callable[[Session], object]) -> float:
        began = time.perf_counter()
        with database.transaction() as session:
            work(session)
        return (time.perf_counter() - began) * 1000

    def dispatch_once(session: Session) -> list[dispatch.StepMessage]:
        return dispatch.dispatch_waiting(session, window=64) or []

    def reconcile(session: Session) -> None:
        recovery.end_leases(session)
        recovery.rewind_lost_handoffs(session, gone_ms=30_000)
        recovery.dispatched_counts(session, older_than_ms=10_000)

    figures: dict[str, float] = {}
    scans: set[str] = set()
    with watched(database, scans):
        report(1)
        for work in (dispatch_once, reconcile):
            once(work)
        figures["dispatch, no room"] = statistics.median(once(dispatch_once) for _ in range(rounds))
        report(rounds * 8)
        messages: list[dispatch.StepMessage] = []
        took = once(lambda session: messages.extend(dispatch_once(session)))
        figures[f"dispatch, {len(messages)} steps"] = took
        figures["reconcile"] = statistics.median(once(reconcile) for _ in range(rounds))
        figures |= _steps(database, once, messages[:rounds], queues)
        for name, batch_ids in (("status of one batch", ids[:1]), ("status of all ten", ids)):
            figures[name] = statistics.median(
                once(lambda session, batch_ids=batch_ids: batches.counts(session, batch_ids))  # type: ignore[misc]
                for _ in range(5)
            )
    return figures, scans


def _steps(
    database: Database,
    once: Callable[[Callable[[Session], object]], float],
    messages: list[dispatch.StepMessage],
    queues: tuple[str, ...],
) -> dict[str, float]:
    claims: list[Claim] = []

    def claim(session: Session, item: dispatch.StepMessage) -> None:
        claimed = leases.claim(
            session,
            job_id=item.job_id,
            segment=0,
            stage=Stage.GENERATE,
            queues=(*queues, item.queue),
            worker="bench",
            lease_ms=60_000,
        )
        assert claimed is not None, item
        claims.append(claimed)

    result = StageResult(FRAMES)
    return {
        "claim": statistics.median(once(lambda session, i=item: claim(session, i)) for item in messages),  # type: ignore[misc]
        "renew": statistics.median(
            once(lambda session, c=claimed: leases.renew(session, c, lease_ms=60_000))  # type: ignore[misc]
            for claimed in claims
        ),
        "finish": statistics.median(
            once(lambda session, c=claimed: finishing.finish(session, c, result))  # type: ignore[misc]
            for claimed in claims
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgres", type=int, nargs="*", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--sqlite", type=int, nargs="*", default=[1_000, 100_000])
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    print(f"machine: {os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}")
    with servers.postgres_server() as server, tempfile.TemporaryDirectory(prefix="vgen-bench-") as folder:
        for kind, sizes in (("postgres", arguments.postgres), ("sqlite", arguments.sqlite)):
            for jobs in sizes:
                url = server.url if kind == "postgres" else f"sqlite:///{Path(folder) / f'{jobs}.sqlite3'}"
                with servers.fresh_database(server) if kind == "postgres" else _as_is(url) as url:
                    _one(kind, url, jobs, arguments.rounds)


@contextmanager
def _as_is(url: str) -> Iterator[str]:
    yield url


def _one(kind: str, url: str, jobs: int, rounds: int) -> None:
    database = Database(url)
    schema.upgrade(database)
    began = time.perf_counter()
    ids = fill(database, jobs)
    print(f"\n{kind}, {jobs:,} jobs (filled in {time.perf_counter() - began:.0f} s)", flush=True)
    figures, scans = measure(database, ids, rounds)
    for name, took in figures.items():
        print(f"  {name:22} {took:9.2f} ms")
    for scan in sorted(scans):
        print(f"  reads a whole table: {scan}")
    if not scans:
        print("  no query reads a whole table")
    database.close()


if __name__ == "__main__":
    main()
