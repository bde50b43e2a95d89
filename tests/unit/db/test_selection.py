"""Jobs chosen by state, error and label, and changed many at a time."""

from __future__ import annotations

import threading

import pytest

from db.clips import cancel_retry_approve, jobs
from db.clips.selection import Selection, batches_with, pages
from db.queue import outcomes
from db.session import Database
from pipeline.errors import RefusedError
from pipeline.states import JobState, Stage, StepState
from tests.unit.db.line import Line

OPEN = (JobState.WAITING, JobState.HELD, JobState.IN_FLIGHT)


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def _ids(line: Line, batch_id: str, selection: Selection, size: int = 2) -> list[list[str]]:
    return [[job_id[-1] for job_id in page] for page in pages(line.database, batch_id, selection, size=size)]


def test_pages_follow_the_file_and_end(line: Line) -> None:
    batch_id = line.submit(count=5)

    assert _ids(line, batch_id, Selection(OPEN)) == [["0", "1"], ["2", "3"], ["4"]]
    assert _ids(line, batch_id, Selection((JobState.FAILED,))) == []


def test_changing_a_page_leaves_none_out(line: Line) -> None:
    batch_id = line.submit(count=5)
    changed = []
    for page in pages(line.database, batch_id, Selection(OPEN), size=2):
        with line.database.transaction() as session:
            changed += cancel_retry_approve.cancel_all(session, page, wait=False)

    assert len(changed) == 5
    assert {line.job(job_id).state for job_id in changed} == {JobState.CANCELLED}
    assert not line.batch(batch_id).active
    line.check_sums()


@pytest.mark.parametrize("name", ["shot", "a b", 'with "quotes"', "it's", "a.b", "a{b},c", "größe", "$x[0]"])
def test_a_label_is_found_by_name_or_value_whatever_its_name(line: Line, name: str) -> None:
    batch_id = line.submit(
        {"prompt": "a", "labels": {name: "1"}}, {"prompt": "b", "labels": {name: "2"}}, {"prompt": "c"}
    )

    assert _ids(line, batch_id, Selection(OPEN, label=(name, None))) == [["0", "1"]]
    assert _ids(line, batch_id, Selection(OPEN, label=(name, "2"))) == [["1"]]


def test_only_batches_at_work_have_open_jobs(line: Line) -> None:
    resting, working = line.submit(count=1, again=True), line.submit(count=1, again=True)
    with line.database.transaction() as session:
        cancel_retry_approve.cancel_all(session, [f"{resting}-000000"])
    with line.database.reading() as session:
        assert list(batches_with(session, Selection(OPEN))) == [working]
        assert list(batches_with(session, Selection((JobState.CANCELLED,)))) == [resting, working]


def test_cancelling_many_stops_the_waiting_at_once_and_asks_the_running(line: Line) -> None:
    batch_id = line.submit(count=3)
    line.admit()
    ids = [f"{batch_id}-{number:06d}" for number in range(3)]
    running = line.claim(ids[0], Stage.SCREEN)

    with line.database.transaction() as session:
        assert cancel_retry_approve.cancel_all(session, ids) == ids
    with line.database.transaction() as session:
        assert cancel_retry_approve.cancel_all(session, ids) == [ids[0]], "it still runs"

    assert [line.job(job_id).state for job_id in ids] == [JobState.IN_FLIGHT, JobState.CANCELLED, JobState.CANCELLED]
    line.finish(running)
    assert line.job(ids[0]).state is JobState.CANCELLED
    assert line.events(ids[1]).count("job_cancelled") == 1
    line.check_sums()


def test_failed_jobs_are_chosen_by_their_error_and_put_back_together(line: Line) -> None:
    batch_id = line.submit(count=3)
    line.admit()
    ids = [f"{batch_id}-{number:06d}" for number in range(3)]
    for job_id, code in zip(ids, ("generator_crashed", "refused", "generator_crashed"), strict=True):
        claimed = line.claim(job_id, Stage.SCREEN)
        with line.database.transaction() as session:
            outcomes.fail(session, claimed, RefusedError("no", code=code))
    crashed = Selection((JobState.FAILED,), code="generator_crashed")

    (page,) = pages(line.database, batch_id, crashed, size=10)
    with line.database.transaction() as session:
        assert cancel_retry_approve.retry_all(session, page, wait=False) == [ids[0], ids[2]]

    assert [line.job(job_id).state for job_id in ids] == [JobState.WAITING, JobState.FAILED, JobState.WAITING]
    assert line.states(ids[0]) == {Stage.SCREEN: StepState.WAITING}
    assert line.job(ids[0]).error_code is None
    assert line.batch(batch_id).active
    line.check_sums()


def test_a_job_that_another_transaction_holds_is_left_out_not_waited_for(postgres_database: Database) -> None:
    line = Line(postgres_database)
    batch_id = line.submit(count=2)
    ids = [f"{batch_id}-{number:06d}" for number in range(2)]

    with postgres_database.transaction() as holder:
        jobs.lock(holder, ids[0])
        with postgres_database.transaction() as session:
            assert cancel_retry_approve.cancel_all(session, ids, wait=False) == [ids[1]]

    assert line.job(ids[0]).state is JobState.WAITING


def test_cancelling_many_while_they_are_worked_on_ends_every_job_once(line: Line) -> None:
    """Three workers race a cancel in pages: nobody waits in a circle, and each job is cancelled or went on first."""
    batch_id = line.submit(count=30)
    line.admit(window=100)
    ids = [f"{batch_id}-{number:06d}" for number in range(30)]
    problems: list[BaseException] = []

    def work(some: list[str]) -> None:
        try:
            for job_id in some:
                claimed = line.try_claim(job_id, Stage.SCREEN)
                if claimed is not None:
                    line.finish(claimed)
        except BaseException as error:  # noqa: BLE001 - told to the test
            problems.append(error)

    threads = [threading.Thread(target=work, args=(ids[start::3],)) for start in range(3)]
    for thread in threads:
        thread.start()
    for page in pages(line.database, batch_id, Selection(OPEN), size=7):
        with line.database.transaction() as session:
            done = cancel_retry_approve.cancel_all(session, page, wait=False)
        for job_id in set(page) - set(done):
            with line.database.transaction() as session:
                cancel_retry_approve.cancel_all(session, [job_id])
    for thread in threads:
        thread.join()

    assert problems == []
    assert {line.job(job_id).state for job_id in ids} == {JobState.CANCELLED}
    assert [line.events(job_id).count("job_cancelled") for job_id in ids] == [1] * 30
    # The last two may have ended at the same instant, each seeing the other as open: admission asks again.
    line.admit(window=100)
    assert not line.batch(batch_id).active
    line.check_sums()
