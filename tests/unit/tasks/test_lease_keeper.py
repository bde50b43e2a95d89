"""What a running step is told: to stop, and whether what it has done is worth keeping."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from db.clips import cancel_retry_approve
from db.queue import pauses, recovery
from db.session import Database
from pipeline.errors import StoppedError
from pipeline.generators.base import Phase, Progress
from pipeline.settings import load_settings
from pipeline.states import Stage
from tasks.worker import lease_keeper
from tasks.worker.context import WorkerContext
from tasks.worker.lease_keeper import LeaseKeeper
from tests.unit.db.line import QUEUES, Line

GRACE_S = 25.0


@dataclass
class Clock:
    """Seconds; the worker was told to stop at ``stopping``."""

    now: float = 1000.0
    stopping: float | None = None

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tasks.worker.lease_keeper.time.monotonic", clock.monotonic)
    return clock


@pytest.fixture
def line(sqlite_database: Database) -> Line:
    return Line(sqlite_database)


@pytest.fixture
def runtime(sqlite_database: Database, clock: Clock, tmp_path: Path) -> Iterator[WorkerContext]:
    settings = load_settings(home=tmp_path, worker={"grace_s": GRACE_S})
    runtime = WorkerContext("w1", settings, queues=QUEUES, stopping=lambda: clock.stopping, database=sqlite_database)
    yield runtime
    runtime.close()


def reason_to_stop(keeper: LeaseKeeper) -> tuple[str, bool] | None:
    """The reason why the step is to stop and whether to keep it; None: it goes on."""
    keeper.renew_or_stop()
    try:
        keeper.check()
    except StoppedError as stop:
        return str(stop), stop.keep
    return None


def test_a_pause_keeps_and_a_cancel_does_not(line: Line, runtime: WorkerContext) -> None:
    batch_id, job_id, claimed = line.bring_to(Stage.GENERATE)
    keeper = LeaseKeeper(runtime, claimed)
    assert reason_to_stop(keeper) is None

    with line.database.transaction() as session:
        pauses.pause_batch(session, batch_id, by="ada")
    assert reason_to_stop(keeper) == ("paused", True)
    with line.database.transaction() as session:
        cancel_retry_approve.cancel(session, job_id)
    assert reason_to_stop(keeper) == ("cancelled", False)


def test_a_lost_lease_keeps_nothing(line: Line, runtime: WorkerContext) -> None:
    _, job_id, claimed = line.bring_to(Stage.GENERATE)
    line.expire(job_id)
    with line.database.transaction() as session:
        assert recovery.end_leases(session) == 1

    assert reason_to_stop(LeaseKeeper(runtime, claimed)) == ("lease lost", False)


@pytest.mark.parametrize(
    ("stage", "step_s", "goes_on_until"),
    [
        (Stage.GENERATE, 1.0, GRACE_S - lease_keeper.STORE_S - 1.0),
        (Stage.GENERATE, 6.0, GRACE_S - lease_keeper.STORE_S - 6.0),
        (Stage.GENERATE, 60.0, GRACE_S / 2),
        (Stage.SCREEN, 1.0, GRACE_S),
    ],
)
def test_a_drain_leaves_time_to_end_the_step_and_to_store_where_it_is(
    line: Line, runtime: WorkerContext, clock: Clock, stage: Stage, step_s: float, goes_on_until: float
) -> None:
    _, _, claimed = line.bring_to(stage)
    keeper = LeaseKeeper(runtime, claimed)
    for step in (1, 2, 3):
        clock.now += step_s
        keeper.on_progress(Progress(Phase.DENOISE, step, 50))
    clock.stopping = clock.now

    clock.now = clock.stopping + goes_on_until - 0.1
    assert reason_to_stop(keeper) is None
    clock.now = clock.stopping + goes_on_until
    assert reason_to_stop(keeper) == ("the worker stops", True)


def test_the_first_step_is_no_measure_since_it_has_the_prompt_in_it(
    line: Line, runtime: WorkerContext, clock: Clock
) -> None:
    _, _, claimed = line.bring_to(Stage.GENERATE)
    keeper = LeaseKeeper(runtime, claimed)
    clock.now += 500.0
    keeper.on_progress(Progress(Phase.DENOISE, 1, 50))
    clock.stopping = clock.now
    clock.now += GRACE_S - lease_keeper.STORE_S - 0.1
    assert reason_to_stop(keeper) is None
