"""What is claimed, and what a renewal tells."""

from __future__ import annotations

import pytest

from db.clips import cancel_retry_approve
from db.models import Queue
from db.queue import leases, pauses
from db.session import Database
from pipeline.policy.routes import CPU_QUEUE, IO_QUEUE
from pipeline.states import JobState, Stage
from tests.unit.db.line import GPU, LEASE_MS, SHA, Line


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def test_a_claim_hands_over_what_earlier_stages_recorded(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.ENCODE)

    assert claimed.work.outputs.generated.frames_sha256 == SHA
    assert claimed.work.spec.prompt == "a cat"
    assert claimed.attempt == 1
    assert line.job(job_id).state is JobState.IN_FLIGHT


def test_only_a_dispatched_step_is_claimed(line: Line) -> None:
    job_id = line.submit(count=1) + "-000000"

    assert line.try_claim(job_id, Stage.SCREEN) is None
    line.admit()
    assert line.try_claim(job_id, Stage.GENERATE) is None
    assert line.try_claim(job_id, Stage.SCREEN, queues=(IO_QUEUE, GPU)) is None
    assert line.try_claim(job_id, Stage.SCREEN, queues=(CPU_QUEUE,)) is not None
    assert line.try_claim(job_id, Stage.SCREEN) is None


def test_an_expired_lease_is_not_taken_over_by_a_claim(line: Line) -> None:
    _, job_id, _ = line.bring_to(Stage.SCREEN)
    line.expire(job_id)

    assert line.try_claim(job_id, Stage.SCREEN) is None


def test_nothing_of_a_paused_batch_or_queue_is_claimed(line: Line) -> None:
    batch_id = line.submit(count=1)
    job_id = f"{batch_id}-000000"
    line.admit()

    with line.database.transaction() as session:
        pauses.pause_batch(session, batch_id, by="ada")
    assert line.try_claim(job_id, Stage.SCREEN) is None
    with line.database.transaction() as session:
        pauses.resume_batch(session, batch_id, by="ada")
        session.add(Queue(name=CPU_QUEUE, paused=True))
    assert line.try_claim(job_id, Stage.SCREEN) is None
    with line.database.transaction() as session:
        session.merge(Queue(name=CPU_QUEUE, paused=False))
    assert line.try_claim(job_id, Stage.SCREEN) is not None


def test_renewing_says_whether_to_stop(line: Line) -> None:
    batch_id, job_id, claimed = line.bring_to(Stage.GENERATE)
    other_batch = line.submit(count=1)

    def renew() -> leases.Control:
        with line.database.transaction() as session:
            return leases.renew(session, claimed, lease_ms=LEASE_MS, phase="denoise", step=2, total=4)

    with line.database.transaction() as session:
        pauses.pause_batch(session, other_batch, by="ada")
        session.add(Queue(name=CPU_QUEUE, paused=True))
    assert renew() == leases.Control(held=True)
    step = line.step(job_id, Stage.GENERATE)
    assert (step.progress_phase, step.progress_step, step.progress_total) == ("denoise", 2, 4)
    with line.database.transaction() as session:
        pauses.pause_batch(session, batch_id, by="ada")
    assert renew() == leases.Control(held=True, pause=True)
    with line.database.transaction() as session:
        cancel_retry_approve.cancel(session, job_id)
    assert renew() == leases.Control(held=True, cancel=True, pause=True)
