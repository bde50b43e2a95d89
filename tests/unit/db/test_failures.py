"""Failed attempts: how often a step is tried again, and when."""

from __future__ import annotations

import pytest

from db.queue import outcomes
from db.session import Database
from pipeline.errors import CrashError, FatalError, RefusedError, RetryableError, StageError
from pipeline.policy.retry import MAX_OTHER, MAX_RETRYABLE
from pipeline.states import JobState, Stage, StepState
from pipeline.work import Claim
from tests.unit.db.line import Line


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def _fail_with(line: Line, claimed: Claim, error: StageError) -> None:
    with line.database.transaction() as session:
        assert outcomes.fail(session, claimed, error).recorded


def test_a_failed_attempt_waits_for_its_backoff(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.PUBLISH)

    _fail_with(line, claimed, RetryableError("busy"))

    step = line.step(job_id, Stage.PUBLISH)
    assert (step.state, step.errors, step.error_code) == (StepState.WAITING, 1, "temporarily_unavailable")
    assert step.not_before > line.database.now()
    assert line.admit() == []
    assert line.job(job_id).state is JobState.WAITING
    line.finish_job(job_id)
    line.check_sums()


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (RetryableError("busy"), MAX_RETRYABLE),
        (FatalError("bug"), MAX_OTHER),
        (CrashError("died"), MAX_OTHER),
        (RefusedError("no"), 1),
    ],
)
def test_the_tries_of_a_failing_job_come_to_an_end(line: Line, error: StageError, tries: int) -> None:
    batch_id, job_id, claimed = line.bring_to(Stage.SCREEN)

    for attempt in range(1, tries + 1):
        assert line.job(job_id).state is JobState.IN_FLIGHT
        _fail_with(line, claimed, error)
        if attempt < tries:
            claimed = line.go_on(job_id, Stage.SCREEN)

    job = line.job(job_id)
    assert (job.state, job.error_code) == (JobState.FAILED, error.code)
    assert line.states(job_id)[Stage.SCREEN] is StepState.FAILED
    assert not line.batch(batch_id).active
    line.check_sums()


def test_a_service_that_was_away_uses_up_no_tries_of_a_bug(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.SCREEN)

    for error in (RetryableError("away"), RetryableError("away"), RetryableError("away"), FatalError("a bug")):
        _fail_with(line, claimed, error)
        claimed = line.go_on(job_id, Stage.SCREEN)

    step = line.step(job_id, Stage.SCREEN)
    assert (step.state, step.errors, step.faults) == (StepState.RUNNING, 3, 1)


@pytest.mark.parametrize("other_succeeds", [True, False])
def test_two_crashes_on_one_worker_are_enough_where_another_job_succeeded_in_between(
    line: Line, other_succeeds: bool
) -> None:
    _, job_id, claimed = line.bring_to(Stage.GENERATE)
    _fail_with(line, claimed, CrashError("died"))
    if other_succeeds:
        line.finish(line.bring_to(Stage.GENERATE)[2])

    _fail_with(line, line.go_on(job_id, Stage.GENERATE), CrashError("died"))

    assert line.job(job_id).state is (JobState.FAILED if other_succeeds else JobState.WAITING)
    line.check_sums()
