"""Everybody finishes at once: no lease is lost over it, and nothing is recorded twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from db import schema
from db.queue import finishing, leases, recovery
from db.session import Database
from pipeline.states import Stage, StepState
from pipeline.work import Claim
from tests.unit.db.line import Line, result_of

WORKERS = 64
LEASE_MS = 20_000


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url)
    schema.upgrade(database)
    yield database
    database.close()


@pytest.mark.slow_faults
def test_sixty_four_workers_that_finish_at_once_lose_no_lease(database: Database, postgres_url: str) -> None:
    # Given as many jobs as workers, each at its screen step, and a worker's connections for each
    line = Line(database)
    line.worker()
    batch_id = line.submit(count=WORKERS)
    line.admit(window=WORKERS)
    taken = [line.claim(f"{batch_id}-{n:06}", Stage.SCREEN, lease_ms=LEASE_MS) for n in range(WORKERS)]
    start = threading.Barrier(WORKERS)

    def work(claimed: Claim) -> tuple[bool, float]:
        mine = Database(postgres_url)
        try:
            start.wait(60)
            for _ in range(16):  # about a thousand renewals, and then every finish, as fast as the database takes them
                with mine.transaction() as session:
                    assert leases.renew(session, claimed, lease_ms=LEASE_MS).held
            began = time.monotonic()
            with mine.transaction() as session:
                return finishing.finish(session, claimed, result_of(claimed)).recorded, time.monotonic() - began
        finally:
            mine.close()

    # When all renew and finish, while a reconciler looks for leases that are over
    with ThreadPoolExecutor(WORKERS) as pool:
        finished = [pool.submit(work, claimed) for claimed in taken]
        while not all(one.done() for one in finished):
            with database.transaction() as session:
                assert recovery.end_leases(session) == 0
            time.sleep(0.2)

    # Then each is recorded, once
    assert [one.result()[0] for one in finished] == [True] * WORKERS
    assert {line.step(f"{batch_id}-{n:06}", Stage.SCREEN).state for n in range(WORKERS)} == {StepState.DONE}
    line.check_sums()
