"""Claim, renew, finish, fail: what a worker may change, and what it may not once its lease is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from db import control, jobs, reconciliation, steps
from db.models import Queue
from db.session import Database
from db.steps import Claim
from pipeline.errors import CrashError, FatalError, RefusedError, RetryableError, StageError
from pipeline.plan import CPU_QUEUE, IO_QUEUE
from pipeline.retry import MAX_LOSSES, MAX_OTHER, MAX_RETRYABLE
from pipeline.stages.base import Outcome, StageResult
from pipeline.states import JobState, Stage, StepState
from tests.unit.db.line import GPU, LEASE_MS, SHA, Line, result_of


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def test_a_job_passes_every_stage_once_but_that_of_scores_unasked(line: Line) -> None:
    batch_id, job_id, claimed = line.bring_to(Stage.PUBLISH, enhance=True)

    assert line.finish(claimed).recorded

    assert line.states(job_id) == dict.fromkeys(set(Stage) - {Stage.SCORE}, StepState.DONE)
    assert line.job(job_id).state is JobState.SUCCEEDED
    assert not line.batch(batch_id).active
    with line.database.reading() as session:
        assert jobs.artifacts(session, [job_id])[job_id]["video"].sha256 == SHA
    line.check_sums()


def test_a_claim_hands_over_what_earlier_stages_recorded(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.ENCODE)

    assert claimed.work.outputs["generate"]["frames_sha256"] == SHA
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
        control.pause_batch(session, batch_id, by="ada")
    assert line.try_claim(job_id, Stage.SCREEN) is None
    with line.database.transaction() as session:
        control.resume_batch(session, batch_id, by="ada")
        session.add(Queue(name=CPU_QUEUE, paused=True))
    assert line.try_claim(job_id, Stage.SCREEN) is None
    with line.database.transaction() as session:
        session.merge(Queue(name=CPU_QUEUE, paused=False))
    assert line.try_claim(job_id, Stage.SCREEN) is not None


def test_renewing_says_whether_to_stop(line: Line) -> None:
    batch_id, job_id, claimed = line.bring_to(Stage.GENERATE)
    other_batch = line.submit(count=1)

    def renew() -> steps.Control:
        with line.database.transaction() as session:
            return steps.renew(session, claimed, lease_ms=LEASE_MS, phase="denoise", step=2, total=4)

    with line.database.transaction() as session:
        control.pause_batch(session, other_batch, by="ada")
        session.add(Queue(name=CPU_QUEUE, paused=True))
    assert renew() == steps.Control(held=True)
    step = line.step(job_id, Stage.GENERATE)
    assert (step.progress_phase, step.progress_step, step.progress_total) == ("denoise", 2, 4)
    with line.database.transaction() as session:
        control.pause_batch(session, batch_id, by="ada")
    assert renew() == steps.Control(held=True, pause=True)
    with line.database.transaction() as session:
        jobs.cancel(session, job_id)
    assert renew() == steps.Control(held=True, cancel=True, pause=True)


def _finish(line: Line, claimed: Claim) -> bool:
    return line.finish(claimed).recorded


def _fail(line: Line, claimed: Claim) -> bool:
    with line.database.transaction() as session:
        return steps.fail(session, claimed, FatalError("late")).recorded


def _release(line: Line, claimed: Claim) -> bool:
    with line.database.transaction() as session:
        return steps.release(session, claimed).recorded


def _rewind(line: Line, claimed: Claim) -> bool:
    with line.database.transaction() as session:
        return steps.rewind(session, claimed, to=Stage.GENERATE, reason="late").recorded


def _fail_for_good(line: Line, claimed: Claim) -> bool:
    with line.database.transaction() as session:
        return steps.fail_for_good(session, claimed, code="late", message="late").recorded


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("act", [_finish, _fail, _release, _rewind, _fail_for_good])
def test_a_worker_that_lost_its_lease_changes_nothing(
    line: Line, act: Callable[[Line, Claim], bool], cancelled: bool
) -> None:
    # given a step whose first attempt lost its lease and whose second is running
    _, job_id, zombie = line.bring_to(Stage.ENCODE)
    line.expire(job_id)
    with line.database.transaction() as session:
        assert reconciliation.end_leases(session) == 1
    line.go_on(job_id, Stage.ENCODE)
    if cancelled:
        with line.database.transaction() as session:
            jobs.cancel(session, job_id)
    before = line.snapshot()

    # when the first attempt speaks up
    assert not act(line, zombie)

    # then only a fenced event tells of it
    assert line.snapshot() == before
    assert line.events(job_id).count("fenced") == 1
    with line.database.transaction() as session:
        assert not steps.renew(session, zombie, lease_ms=LEASE_MS).held
    assert line.snapshot() == before


def test_a_second_finish_of_the_same_attempt_is_fenced(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.PUBLISH)
    assert line.finish(claimed).recorded

    assert not line.finish(claimed).recorded
    assert line.job(job_id).state is JobState.SUCCEEDED


def test_a_publish_without_a_video_is_refused(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.PUBLISH)

    with pytest.raises(ValueError, match="exactly one video"):
        line.finish(claimed, StageResult())

    assert line.states(job_id)[Stage.PUBLISH] is StepState.RUNNING


def _fail_with(line: Line, claimed: Claim, error: StageError) -> None:
    with line.database.transaction() as session:
        assert steps.fail(session, claimed, error).recorded


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


def test_a_release_is_no_failed_attempt(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.GENERATE)

    assert _release(line, claimed)

    step = line.step(job_id, Stage.GENERATE)
    assert (step.state, step.errors, step.crashes, step.losses) == (StepState.WAITING, 0, 0, 0)
    assert line.job(job_id).state is JobState.WAITING
    line.finish_job(job_id)


def test_a_blocked_prompt_ends_the_job(line: Line) -> None:
    batch_id, job_id, claimed = line.bring_to(Stage.SCREEN)

    line.finish(claimed, StageResult(outcome=Outcome.BLOCKED, output={"reason": "unsafe 0.9"}))

    job = line.job(job_id)
    assert (job.state, job.error_code, job.error) == (JobState.BLOCKED, "unsafe_prompt", "unsafe 0.9")
    assert Stage.GENERATE not in line.states(job_id)
    assert not line.batch(batch_id).active
    with line.database.transaction() as session:
        assert not jobs.retry(session, job_id)


def test_a_skipped_stage_lets_the_job_go_on(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.SCREEN)

    assert line.finish(claimed, result_of(claimed, Outcome.SKIPPED)).next_stage is Stage.GENERATE
    assert line.states(job_id) == {Stage.SCREEN: StepState.SKIPPED, Stage.GENERATE: StepState.WAITING}


@pytest.mark.parametrize("stage", [Stage.ENCODE, Stage.PUBLISH])
def test_a_rewind_makes_the_frames_again(line: Line, stage: Stage) -> None:
    _, job_id, claimed = line.bring_to(stage)

    assert _rewind(line, claimed)

    expected = {Stage.SCREEN: StepState.DONE, Stage.GENERATE: StepState.WAITING, Stage.ENCODE: StepState.PENDING}
    if stage is Stage.PUBLISH:
        expected[Stage.PUBLISH] = StepState.PENDING
    assert line.states(job_id) == expected
    generate = line.step(job_id, Stage.GENERATE)
    assert (generate.errors, generate.crashes, generate.losses) == (0, 0, 0)
    assert "rewound" in line.events(job_id)
    line.finish_job(job_id)
    assert line.step(job_id, Stage.GENERATE).attempt == 2
    line.check_sums()


def test_rewinds_come_to_an_end(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.ENCODE)

    for _ in range(MAX_LOSSES - 1):
        assert _rewind(line, claimed)
        claimed = line.go_on(job_id, Stage.ENCODE)
    assert _rewind(line, claimed)

    assert line.job(job_id).error_code == "rewound_too_often"
    line.check_sums()


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
