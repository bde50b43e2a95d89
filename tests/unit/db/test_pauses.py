"""Pausing and resuming: batches, queues, everything."""

from __future__ import annotations

import threading

import pytest

from db.queue import leases, outcomes, pauses
from db.session import Database
from pipeline import work
from pipeline.policy.routes import ALL_QUEUES, CPU_QUEUE, IO_QUEUE
from pipeline.states import JobState, Stage, StepState
from tests.unit.db.line import GPU, Line
from tests.unit.db.test_dispatch import _ready_to_generate


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def _pause(line: Line, name: str) -> bool:
    with line.database.transaction() as session:
        return pauses.pause_queue(session, name, by="ada")


def _resume(line: Line, name: str) -> bool:
    with line.database.transaction() as session:
        return pauses.resume_queue(session, name, by="ada")


def _withdraw(line: Line) -> int:
    with line.database.transaction() as session:
        return pauses.withdraw(session)


def test_pausing_twice_changes_nothing_and_says_so(line: Line) -> None:
    batch_id = line.submit(count=1)
    with line.database.transaction() as session:
        assert pauses.pause_batch(session, batch_id, by="ada")
        assert not pauses.pause_batch(session, batch_id, by="bob")
        assert pauses.resume_batch(session, batch_id, by="bob")
        assert not pauses.resume_batch(session, batch_id, by="bob")
    assert [(kind, by) for kind, by in line.batch_events(batch_id) if by] == [("paused", "ada"), ("resumed", "bob")]
    assert (_pause(line, GPU), _pause(line, GPU), _resume(line, GPU), _resume(line, GPU)) == (True, False, True, False)


@pytest.mark.parametrize("name", [CPU_QUEUE, "vgen", ALL_QUEUES])
def test_what_is_paused_is_neither_admitted_nor_claimed(line: Line, name: str) -> None:
    batch_id = line.submit(count=2)
    line.admit(window=1)
    _pause(line, name)

    assert line.try_claim(f"{batch_id}-000000", Stage.SCREEN) is None
    assert line.admit() == []

    _resume(line, name)
    assert line.try_claim(f"{batch_id}-000000", Stage.SCREEN) is not None
    assert [item.job_id for item in line.admit()] == [f"{batch_id}-000001"]


def test_everything_paused_leaves_no_stage_a_way(line: Line) -> None:
    line.worker()
    made = {}
    for stage in Stage:
        if stage is not Stage.ENHANCE:
            _, job_id, claimed = line.bring_to(stage)
            made[stage] = (job_id, claimed)
    _pause(line, ALL_QUEUES)

    for _, claimed in made.values():
        with line.database.reading() as session:
            assert leases.check_control(session, claimed) == leases.Control(held=True, pause=True)
        with line.database.transaction() as session:
            assert leases.renew(session, claimed, lease_ms=60_000).pause
            outcomes.release(session, claimed)
    assert line.admit() == []
    assert {line.job(job_id).state for job_id, _ in made.values()} == {JobState.WAITING}

    _resume(line, ALL_QUEUES)
    assert {item.stage for item in line.admit()} == set(made)


@pytest.mark.parametrize(
    ("name", "stops"),
    [(GPU, True), ("vgen.gpu", True), (ALL_QUEUES, True), (IO_QUEUE, False), ("vgen.gp", False), ("vgen.gpu.c", False)],
)
def test_a_name_stands_for_its_queue_and_those_below_it(line: Line, name: str, stops: bool) -> None:
    *_, claimed = line.bring_to(Stage.GENERATE)
    _pause(line, name)

    with line.database.reading() as session:
        assert leases.check_control(session, claimed).pause is stops
        assert pauses.is_paused(claimed.queue, pauses.paused_queues(session)) is stops


def test_a_paused_gpu_type_leaves_the_others_at_work(line: Line) -> None:
    line.worker()
    line.worker("vgen.gpu.h200.idle", name="w2")
    _ready_to_generate(line, count=4)
    _pause(line, GPU)

    assert {item.queue for item in line.admit()} == {"vgen.gpu.h200.idle"}


def test_withdrawn_steps_make_room_for_others_and_go_on_at_once(line: Line) -> None:
    paused = line.submit(count=2, again=True)
    assert len(line.admit(window=2)) == 2
    with line.database.transaction() as session:
        pauses.pause_batch(session, paused, by="ada")
    other = line.submit(count=2, again=True)
    assert line.admit(window=2) == []

    assert _withdraw(line) == 2
    assert _withdraw(line) == 0

    assert {item.job_id[:-7] for item in line.admit(window=2)} == {other}
    assert line.states(f"{paused}-000000") == {Stage.SCREEN: StepState.WAITING}
    assert line.job(f"{paused}-000000").state is JobState.WAITING
    with line.database.transaction() as session:
        pauses.resume_batch(session, paused, by="ada")
    assert len(line.admit(window=4)) == 2
    line.check_sums()


def test_what_runs_is_not_withdrawn(line: Line) -> None:
    batch_id, job_id, _ = line.bring_to(Stage.GENERATE)
    with line.database.transaction() as session:
        pauses.pause_batch(session, batch_id, by="ada")

    assert _withdraw(line) == 0
    assert line.states(job_id)[Stage.GENERATE] is StepState.RUNNING


def test_after_a_pause_has_committed_no_claim_succeeds(database: Database) -> None:
    """Claimers race a pause; each claim that came through did so before it, and sees it at its next look."""
    line = Line(database)
    batch_id = line.submit(count=40)
    line.admit(window=100)
    ids = [f"{batch_id}-{number:06d}" for number in range(40)]
    is_paused, got_late = threading.Event(), []
    taken: list[work.Claim] = []

    def claim_all(some: list[str]) -> None:
        for job_id in some:
            late = is_paused.is_set()
            claimed = line.try_claim(job_id, Stage.SCREEN)
            if claimed is not None:
                (got_late if late else taken).append(claimed)

    threads = [threading.Thread(target=claim_all, args=(ids[start::3],)) for start in range(3)]
    for thread in threads:
        thread.start()
    _pause(line, ALL_QUEUES)
    is_paused.set()
    for thread in threads:
        thread.join()

    assert got_late == []
    for claimed in taken:
        with database.reading() as session:
            assert leases.check_control(session, claimed).pause
    assert line.admit() == []
    line.check_sums()
