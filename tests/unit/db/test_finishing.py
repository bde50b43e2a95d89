"""What a finish records, and what comes next."""

from __future__ import annotations

import pytest

from db.clips import cancel_retry_approve, jobs
from db.session import Database
from pipeline.outputs import ScreenOutput
from pipeline.states import JobState, Stage, StepState
from pipeline.work import Outcome, StageResult
from tests.unit.db.line import SHA, Line, result_of


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


def test_a_second_finish_of_the_same_attempt_is_fenced(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.PUBLISH)
    assert line.finish(claimed).recorded

    assert not line.finish(claimed).recorded
    assert line.job(job_id).state is JobState.SUCCEEDED


def test_a_publish_without_a_video_is_refused(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.PUBLISH)

    with pytest.raises(ValueError, match="exactly one video"):
        line.finish(claimed, StageResult(None))

    assert line.states(job_id)[Stage.PUBLISH] is StepState.RUNNING


def test_a_blocked_prompt_ends_the_job(line: Line) -> None:
    batch_id, job_id, claimed = line.bring_to(Stage.SCREEN)

    line.finish(claimed, StageResult(ScreenOutput(screened=True, reason="unsafe 0.9"), Outcome.BLOCKED))

    job = line.job(job_id)
    assert (job.state, job.error_code, job.error) == (JobState.BLOCKED, "unsafe_prompt", "unsafe 0.9")
    assert Stage.GENERATE not in line.states(job_id)
    assert not line.batch(batch_id).active
    with line.database.transaction() as session:
        assert not cancel_retry_approve.retry(session, job_id)


def test_a_skipped_stage_lets_the_job_go_on(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.SCREEN)

    assert line.finish(claimed, result_of(claimed, Outcome.SKIPPED)).next_stage is Stage.GENERATE
    assert line.states(job_id) == {Stage.SCREEN: StepState.SKIPPED, Stage.GENERATE: StepState.WAITING}
