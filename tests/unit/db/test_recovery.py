"""What messages and workers leave undone is put right, and only that."""

from __future__ import annotations

import pytest

from db import workers
from db.queue import leases, recovery
from db.session import Database
from pipeline.policy.retry import MAX_LOSSES, MAX_OTHER
from pipeline.policy.routes import CPU_QUEUE
from pipeline.states import JobState, Stage, StepState
from tests.unit.db.line import GPU, LEASE_MS, Line


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def _end_leases(line: Line, *, all_of_them: bool = False) -> int:
    with line.database.transaction() as session:
        return recovery.end_leases(session, all_of_them=all_of_them)


def test_a_live_lease_is_left_alone(line: Line) -> None:
    line.bring_to(Stage.GENERATE)
    before = line.snapshot()

    assert _end_leases(line) == 0
    assert line.snapshot() == before


def test_a_renewed_lease_is_left_alone(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.GENERATE)
    line.expire(job_id)
    with line.database.transaction() as session:
        leases.renew(session, claimed, lease_ms=LEASE_MS)

    assert _end_leases(line) == 0


def test_an_expired_lease_is_ended_once(line: Line) -> None:
    _, job_id, _ = line.bring_to(Stage.GENERATE)
    line.expire(job_id)

    assert _end_leases(line) == 1
    assert _end_leases(line) == 0

    assert line.states(job_id)[Stage.GENERATE] is StepState.WAITING
    assert line.job(job_id).state is JobState.WAITING
    line.finish_job(job_id)
    line.check_sums()


def test_a_solo_run_that_took_over_ends_every_lease(line: Line) -> None:
    _, job_id, _ = line.bring_to(Stage.GENERATE)

    assert _end_leases(line, all_of_them=True) == 1
    assert line.job(job_id).state is JobState.WAITING


def _lose(line: Line, job_id: str, *, progress: int) -> None:
    claimed = line.go_on(job_id, Stage.GENERATE)
    with line.database.transaction() as session:
        leases.renew(session, claimed, lease_ms=LEASE_MS, phase="denoise", step=progress, total=9)
    line.expire(job_id)
    assert _end_leases(line) == 1


@pytest.mark.parametrize(("progress", "bound"), [(0, MAX_OTHER), (3, MAX_LOSSES)])
def test_lost_workers_count_as_crashes_only_without_progress(line: Line, progress: int, bound: int) -> None:
    job_id = line.submit(count=1) + "-000000"
    line.worker()

    for lost in range(1, bound):
        _lose(line, job_id, progress=progress)
        step = line.step(job_id, Stage.GENERATE)
        assert (step.losses, step.crashes) == (lost, 0 if progress else lost)
        assert line.job(job_id).state is JobState.WAITING
    _lose(line, job_id, progress=progress)

    job = line.job(job_id)
    assert (job.state, job.error_code) == (JobState.FAILED, "worker_lost")
    line.check_sums()


def test_old_messages_are_counted_by_queue(line: Line) -> None:
    line.submit(count=3)
    line.admit()

    with line.database.reading() as session:
        assert recovery.dispatched_counts(session, older_than_ms=60_000) == {CPU_QUEUE: (3, 0)}
    line.age_dispatch(300_000)
    with line.database.reading() as session:
        assert recovery.dispatched_counts(session, older_than_ms=60_000) == {CPU_QUEUE: (3, 3)}


def test_lost_messages_are_sent_again(line: Line) -> None:
    batch_id = line.submit(count=2)
    line.admit()
    line.claim(f"{batch_id}-000001", Stage.SCREEN)

    def redispatch(queue: str) -> int:
        with line.database.transaction() as session:
            return recovery.redispatch(session, [queue], older_than_ms=60_000)

    assert redispatch(CPU_QUEUE) == 0
    line.age_dispatch(300_000)
    assert redispatch(GPU) == 0
    assert redispatch(CPU_QUEUE) == 1
    assert line.events(f"{batch_id}-000000") == ["message_lost"]
    line.check_sums()
    assert [item.job_id for item in line.admit()] == [f"{batch_id}-000000"]


def test_frames_on_a_host_that_is_gone_are_made_again(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.GENERATE)
    line.finish(claimed)
    line.admit()

    def rewind() -> int:
        line.age_dispatch(300_000)
        with line.database.transaction() as session:
            return recovery.rewind_lost_handoffs(session, gone_ms=60_000)

    assert rewind() == 0  # a live worker reads it
    with line.database.transaction() as session:
        workers.leave(session, "w1")
    assert rewind() == 1
    assert line.states(job_id)[Stage.GENERATE] is StepState.WAITING
    assert line.states(job_id)[Stage.ENCODE] is StepState.PENDING
    assert line.step(job_id, Stage.GENERATE).losses == 0
    line.worker()
    line.finish_job(job_id)
    line.check_sums()
