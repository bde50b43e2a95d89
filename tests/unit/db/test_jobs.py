"""What a person asks of a job: cancel, retry, approve, reject."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from db.clips import cancel_retry_approve, jobs
from db.models import Step
from db.queue import outcomes, recovery
from db.session import Database
from pipeline.errors import ConflictError, FatalError, NotFoundError, RefusedError
from pipeline.states import JobState, Stage, StepState
from pipeline.work import Outcome
from tests.unit.db.line import Line, result_of


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def _cancel(line: Line, job_id: str) -> bool:
    with line.database.transaction() as session:
        return cancel_retry_approve.cancel(session, job_id)


def _retry(line: Line, job_id: str) -> bool:
    with line.database.transaction() as session:
        return cancel_retry_approve.retry(session, job_id)


def _held(line: Line) -> tuple[str, str]:
    batch_id, job_id, claimed = line.bring_to(Stage.SCREEN)
    line.finish(claimed, result_of(claimed, Outcome.HELD))
    return batch_id, job_id


def test_a_waiting_job_is_cancelled_at_once(line: Line) -> None:
    batch_id = line.submit(count=2)
    job_id = f"{batch_id}-000000"

    assert _cancel(line, job_id)

    assert line.job(job_id).state is JobState.CANCELLED
    assert [item.job_id for item in line.admit()] == [f"{batch_id}-000001"]
    line.check_sums()


def test_a_dispatched_job_is_cancelled_at_once_and_its_message_finds_nothing(line: Line) -> None:
    batch_id = line.submit(count=1)
    job_id = f"{batch_id}-000000"
    line.admit()

    assert _cancel(line, job_id)

    assert line.try_claim(job_id, Stage.SCREEN) is None
    assert line.job(job_id).state is JobState.CANCELLED
    assert not line.batch(batch_id).active


def test_a_held_job_is_cancelled_at_once(line: Line) -> None:
    _, job_id = _held(line)

    assert _cancel(line, job_id)

    assert line.job(job_id).state is JobState.CANCELLED
    line.check_sums()


def test_a_running_job_is_cancelled_when_its_worker_finishes(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.GENERATE)

    assert _cancel(line, job_id)
    assert line.job(job_id).state is JobState.IN_FLIGHT
    finished = line.finish(claimed)

    assert (finished.recorded, finished.next_stage) == (True, None)
    assert line.job(job_id).state is JobState.CANCELLED
    line.check_sums()


@pytest.mark.parametrize("how", ["release", "fail", "rewind", "lease"])
def test_cancel_wins_however_the_attempt_ends(line: Line, how: str) -> None:
    _, job_id, claimed = line.bring_to(Stage.ENCODE)
    _cancel(line, job_id)

    line.expire(job_id)
    with line.database.transaction() as session:
        if how == "release":
            outcomes.release(session, claimed)
        elif how == "fail":
            outcomes.fail(session, claimed, FatalError("bug"))
        elif how == "rewind":
            outcomes.rewind(session, claimed, to=Stage.GENERATE, reason="gone")
        else:
            recovery.end_leases(session)

    assert line.job(job_id).state is JobState.CANCELLED
    assert line.states(job_id)[Stage.ENCODE] is StepState.CANCELLED
    line.check_sums()


def test_a_finished_publish_beats_cancel(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.PUBLISH)
    _cancel(line, job_id)

    assert line.finish(claimed).recorded

    assert line.job(job_id).state is JobState.SUCCEEDED
    line.check_sums()


def test_what_has_ended_is_not_cancelled(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.PUBLISH)
    line.finish(claimed)
    before = line.snapshot()

    assert not _cancel(line, job_id)
    assert not _retry(line, job_id)
    assert line.snapshot() == before


def test_an_approved_job_goes_on(line: Line) -> None:
    _, job_id = _held(line)
    assert line.admit() == []

    with line.database.transaction() as session:
        assert cancel_retry_approve.approve(session, job_id, by="eve")
        assert not cancel_retry_approve.approve(session, job_id, by="eve")

    line.finish_job(job_id)
    assert line.job(job_id).state is JobState.SUCCEEDED


def test_the_dispatcher_does_not_read_what_a_person_has_to_judge(line: Line) -> None:
    _, job_id = _held(line)
    of_it = {step.stage: step.state for step in line.steps(job_id)}
    assert of_it == {Stage.SCREEN: StepState.DONE, Stage.GENERATE: StepState.PENDING}
    with line.database.transaction() as session:
        cancel_retry_approve.approve(session, job_id, by="eve")
    assert {step.stage: step.state for step in line.steps(job_id)}[Stage.GENERATE] is StepState.WAITING


def test_what_was_held_by_the_release_before_goes_on_too(line: Line) -> None:
    _, job_id = _held(line)
    with line.database.transaction() as session:
        session.execute(
            update(Step).where(Step.job_id == job_id).where(Step.stage == Stage.GENERATE).values(state="waiting")
        )
    line.check_sums()
    with line.database.transaction() as session:
        assert cancel_retry_approve.approve(session, job_id, by="eve")
    line.finish_job(job_id)
    assert line.job(job_id).state is JobState.SUCCEEDED


def test_a_rejected_job_is_blocked(line: Line) -> None:
    batch_id, job_id = _held(line)

    with line.database.transaction() as session:
        assert cancel_retry_approve.reject(session, job_id, by="eve")

    job = line.job(job_id)
    assert (job.state, job.error_code, job.error) == (JobState.BLOCKED, "rejected", "rejected by eve")
    assert not line.batch(batch_id).active
    assert not _retry(line, job_id)


def test_cancel_and_retry_do_not_get_a_held_job_past_approval(line: Line) -> None:
    _, job_id = _held(line)
    _cancel(line, job_id)

    assert _retry(line, job_id)

    assert line.job(job_id).state is JobState.HELD
    assert line.admit() == []
    line.check_sums()
    with line.database.transaction() as session:
        assert cancel_retry_approve.approve(session, job_id, by="eve")
    _cancel(line, job_id)
    _retry(line, job_id)
    assert line.job(job_id).state is JobState.WAITING


def test_a_retried_job_goes_on_where_it_failed_with_all_its_tries(line: Line) -> None:
    batch_id, job_id, claimed = line.bring_to(Stage.PUBLISH)
    with line.database.transaction() as session:
        outcomes.fail(session, claimed, RefusedError("no"))
    assert not line.batch(batch_id).active

    assert _retry(line, job_id)

    job, step = line.job(job_id), line.step(job_id, Stage.PUBLISH)
    assert (job.state, job.error_code, job.finished_at) == (JobState.WAITING, None, None)
    assert (step.state, step.errors, step.error_code) == (StepState.WAITING, 0, None)
    assert line.batch(batch_id).active
    line.check_sums()
    line.finish_job(job_id)
    assert line.step(job_id, Stage.GENERATE).attempt == 1
    line.check_sums()


@pytest.mark.parametrize("stage", [Stage.SCREEN, Stage.GENERATE, Stage.ENCODE])
def test_a_cancelled_job_can_be_retried_from_any_stage(line: Line, stage: Stage) -> None:
    _, job_id, claimed = line.bring_to(stage)
    _cancel(line, job_id)
    line.finish(claimed)

    assert _retry(line, job_id)

    line.finish_job(job_id)
    line.check_sums()


@pytest.mark.parametrize("stage", [Stage.ENCODE, Stage.PUBLISH])
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_rewound_job_that_was_cancelled_is_made_again_in_order(line: Line, stage: Stage, when: str) -> None:
    _, job_id, claimed = line.bring_to(stage)
    with line.database.transaction() as session:
        outcomes.rewind(session, claimed, to=Stage.GENERATE, reason="gone")
    if when == "during":
        again = line.go_on(job_id, Stage.GENERATE)
        _cancel(line, job_id)
        line.finish(again)
    else:
        _cancel(line, job_id)
    assert line.job(job_id).state is JobState.CANCELLED

    assert _retry(line, job_id)

    assert line.states(job_id)[Stage.GENERATE] is StepState.WAITING
    assert line.states(job_id)[Stage.ENCODE] is StepState.PENDING
    line.finish_job(job_id)
    line.check_sums()


def test_two_last_jobs_that_end_at_one_instant_leave_the_batch_at_rest(postgres_database: Database) -> None:
    # given two transactions, each of which ends one of the last two jobs and sees the other as open
    line = Line(postgres_database)
    batch_id = line.submit(count=2)
    with postgres_database.transaction() as first, postgres_database.transaction() as second:
        cancel_retry_approve.cancel(first, f"{batch_id}-000000")
        cancel_retry_approve.cancel(second, f"{batch_id}-000001")
    assert line.batch(batch_id).active

    # when a dispatcher looks
    line.admit()

    line.check_sums()


def test_unknown_jobs_and_forbidden_moves_are_refused(line: Line) -> None:
    job_id = line.submit(count=1) + "-000000"
    with line.database.transaction() as session:
        with pytest.raises(NotFoundError, match="nope"):
            jobs.get(session, "nope")
        with pytest.raises(NotFoundError, match="nope"):
            cancel_retry_approve.cancel(session, "nope")
        with pytest.raises(ConflictError, match="cannot become held"):
            jobs.move(session, job_id, JobState.HELD)
        with pytest.raises(ConflictError, match="cannot become succeeded"):
            jobs.conclude(session, job_id, JobState.SUCCEEDED)
