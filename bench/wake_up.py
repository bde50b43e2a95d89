"""Measures how soon a GPU takes a screened clip: ``python -m bench.wake_up [--clips 40]``.

An idle cluster with PostgreSQL and Redis, whose stages do nothing, is given one clip at a time. The time is that from
the screen step's finish to the generate step's claim, on the database's clock: once with dispatchers that are woken,
once with dispatchers that cannot listen and poll.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import aliased

from bench.orchestration import GPU_TYPE, _ended, _live, _warm_up, roles, start_workers, stop_workers, wait_until
from db import schema
from db.clips import batches
from db.models import Step
from db.session import Database
from pipeline.prompts import parse_bytes
from pipeline.settings import load_settings
from pipeline.spec import BatchOptions
from pipeline.states import Stage
from tests import servers

NOWHERE = f"postgresql+psycopg://nobody@127.0.0.1:{servers.free_port()}/nothing"


def waits_ms(clips: int, database_url: str, env: dict[str, str], home: Path) -> list[tuple[int, int]]:
    """Milliseconds from each clip's screen to its dispatch, and to its claim."""
    database, settings = Database(database_url), load_settings(home=home, preset="idle")
    schema.upgrade(database)
    workers = start_workers("bench.parts.empty_stages", roles(1), env)
    try:
        wait_until(lambda: _live(database) == len(roles(1)), 120)
        _warm_up(database, settings)
        return [_wait_of_one(database, home, number) for number in range(clips)]
    finally:
        stop_workers(workers)
        database.close()


def _wait_of_one(database: Database, home: Path, number: int) -> tuple[int, int]:
    time.sleep(random.uniform(0.5, 1.5))
    settings = load_settings(home=home, preset="idle")
    submission = parse_bytes(f"clip {number}\n".encode(), "bench.txt", overrides={}, settings=settings)
    with database.transaction() as session:
        stored = batches.submit(session, submission, name="bench", owner="bench", options=BatchOptions(), again=True)
    wait_until(lambda: _ended(database, stored.batch_id) == 1, 60)
    screen, generate = aliased(Step), aliased(Step)
    query = (
        select(generate.dispatched_at - screen.finished_at, generate.started_at - screen.finished_at)
        .select_from(screen)
        .join(generate, generate.job_id == screen.job_id)
        .where(screen.batch_id == stored.batch_id, screen.stage == Stage.SCREEN, generate.stage == Stage.GENERATE)
    )
    with database.reading() as session:
        dispatched, claimed = session.execute(query).one()
    return dispatched, claimed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=40)
    clips = parser.parse_args().clips
    medians = []
    for name, listen in (("woken", {}), ("polling", {"VGEN_DATABASE_LISTEN_URL": NOWHERE})):
        with (
            servers.postgres_server() as postgres,
            servers.redis_server() as redis,
            servers.fresh_database(postgres) as url,
            tempfile.TemporaryDirectory() as folder,
        ):
            env = {
                **os.environ,
                "VGEN_DATABASE_URL": url,
                "VGEN_BROKER_URL": redis.url,
                "VGEN_HOME": folder,
                "VGEN_GPU_TYPE": GPU_TYPE,
                **listen,
            }
            dispatched, claimed = (
                sorted(times) for times in zip(*waits_ms(clips, url, env, Path(folder)), strict=True)
            )
        medians.append(statistics.median(claimed))
        print(
            f"{name}: p50 {medians[-1]:.0f} ms, {statistics.median(dispatched):.0f} of them until it is dispatched; "
            f"p90 {claimed[int(0.9 * clips)]} ms, most {claimed[-1]} ms, {clips} clips",
            flush=True,
        )
    print(f"polling takes {medians[1] / medians[0]:.1f} times as long")


if __name__ == "__main__":
    main()
