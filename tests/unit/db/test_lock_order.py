"""Who recovers many steps in one transaction waits for nobody who may wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from db.clips import jobs
from db.clips.batches import Limits
from db.queue import finishing, outcomes, recovery
from db.session import Database
from pipeline.states import Stage, StepState
from pipeline.work import Claim
from tests.unit.db.line import Line, result_of

_WAITS_S = 10.0


@pytest.fixture
def line(postgres_database: Database) -> Line:
    return Line(postgres_database)


def _running(line: Line, count: int, stage: Stage) -> list[Claim]:
    """Jobs of one batch with a budget, whose steps of that stage are running."""
    line.worker(slots=count)
    batch_id = line.submit(count=count, limits=Limits(max_gpu_ms=10**9))
    return [line.go_on(f"{batch_id}-{number:06d}", stage) for number in range(count)]


def _while_locked(line: Line, claimed: Claim, meanwhile: Callable[[Session], Any]) -> tuple[Any, Any]:
    """Finish the step in a transaction that has its job locked before the other begins; what both returned."""
    locked, other = threading.Event(), list[int]()

    def finish() -> Any:
        with line.database.transaction() as session:
            jobs.lock(session, claimed.work.job_id)
            locked.set()
            _until_done_or_waiting(session, other, answer)
            return finishing.finish(session, claimed, result_of(claimed))

    def recover() -> Any:
        assert locked.wait(_WAITS_S)
        with line.database.transaction() as session:
            other.append(session.scalars(text("SELECT pg_backend_pid()")).one())
            return meanwhile(session)

    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(recover)
        return pool.submit(finish).result(), answer.result()


def _until_done_or_waiting(session: Session, pid: list[int], answer: Any) -> None:
    while not answer.done():
        waiting = text("SELECT cardinality(pg_blocking_pids(:pid)) > 0")
        if pid and session.scalars(waiting, {"pid": pid[0]}).one():
            return
        threading.Event().wait(0.01)


def test_leases_are_ended_while_a_late_finish_charges_their_batch(line: Line) -> None:
    lost, late = _running(line, 2, Stage.GENERATE)
    for claimed in (lost, late):
        line.expire(claimed.work.job_id)

    finished, _ = _while_locked(line, late, recovery.end_leases)

    assert finished.recorded
    assert line.step(lost.work.job_id, Stage.GENERATE).state is StepState.WAITING


def test_handoffs_are_given_up_while_a_finish_has_a_job_locked(line: Line) -> None:
    lost, late = _running(line, 2, Stage.ENCODE)
    for claimed in (lost, late):
        with line.database.transaction() as session:
            outcomes.release(session, claimed)
    line.admit()
    with line.database.transaction() as session:
        session.execute(text("UPDATE workers SET seen_at = 0"))
    begun = threading.Event()

    def hold() -> None:
        with line.database.transaction() as session:
            jobs.lock(session, late.work.job_id)
            begun.set()
            done.result(_WAITS_S)

    with ThreadPoolExecutor(2) as pool:
        done = pool.submit(partial(_give_up_handoffs, line, begun))
        pool.submit(hold).result()

    assert line.step(lost.work.job_id, Stage.GENERATE).state is StepState.WAITING
    assert line.step(late.work.job_id, Stage.ENCODE).state is StepState.DISPATCHED
    assert _give_up_handoffs(line, begun) == 1


def _give_up_handoffs(line: Line, begun: threading.Event) -> int:
    assert begun.wait(_WAITS_S)
    with line.database.transaction() as session:
        return recovery.rewind_lost_handoffs(session, gone_ms=-1_000)
