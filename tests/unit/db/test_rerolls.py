"""Clips that are scored before they are published, and made again where the gate turns them down."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import select

from db import workers
from db.clips import cancel_retry_approve, checkpoints, scores
from db.evals import runs
from db.models import Checkpoint, Score
from db.queue import outcomes, recovery
from db.session import Database
from pipeline.policy.routes import CPU_QUEUE, encode_queue
from pipeline.seeds import roll_seed
from pipeline.spec import BatchOptions, ScoreOptions
from pipeline.states import JobState, Stage, StepState
from pipeline.work import CheckpointRef, Claim, Outcome
from tests.outputs import recorded
from tests.unit.db.line import HANDOFF, Line, result_of, score_of

CHECKS = ScoreOptions(metrics=("checks",), gate=("checks",), reroll=1)


@pytest.fixture
def line(database: Database) -> Line:
    found = Line(database)
    found.worker()
    return found


def _scored(line: Line, score: ScoreOptions = CHECKS, **fields: object) -> str:
    return f"{line.submit({'prompt': 'a cat', 'seed': 7, **fields}, score=score)}-000000"


def _reject(line: Line, job_id: str) -> Claim:
    """Work off the job's roll until its clip is scored, and turn that down."""
    claimed = line.go_on(job_id, Stage.SCORE)
    line.finish(claimed, result_of(claimed, Outcome.REJECTED))
    return claimed


def _score_rows(line: Line) -> list[Score]:
    with line.database.reading() as session:
        return list(session.scalars(select(Score).order_by(Score.roll, Score.metric, Score.scored_at)))


def test_without_scores_a_batch_is_stored_and_worked_off_as_before(line: Line) -> None:
    batch_id = line.submit(count=1)

    line.finish_job(f"{batch_id}-000000")

    assert "score" not in line.batch(batch_id).options
    assert Stage.SCORE not in line.states(f"{batch_id}-000000")
    assert BatchOptions.model_validate(line.batch(batch_id).options) == BatchOptions()


def test_an_accepted_clip_is_published_with_its_scores(line: Line) -> None:
    job_id = _scored(line)

    line.finish_job(job_id)

    assert line.job(job_id).state is JobState.SUCCEEDED
    assert list(line.states(job_id)) == [Stage.SCREEN, Stage.GENERATE, Stage.ENCODE, Stage.SCORE, Stage.PUBLISH]
    (row,) = _score_rows(line)
    assert (row.job_id, row.roll, row.metric, row.score, row.version) == (job_id, 1, "checks.black", 0.0, 1)


def test_a_rejected_clip_is_made_again_as_the_next_roll_with_a_seed_of_its_own(line: Line) -> None:
    # Given a job whose prompt was enhanced
    job_id = _scored(line, enhance=True)
    first = _reject(line, job_id)

    # Then it waits to be generated, with what was decided about its prompt
    assert (line.job(job_id).state, line.job(job_id).roll) == (JobState.WAITING, 2)
    assert [(step.roll, step.stage, step.state) for step in line.steps(job_id) if step.roll == 2] == [
        (2, Stage.ENHANCE, StepState.DONE),
        (2, Stage.SCREEN, StepState.DONE),
        (2, Stage.GENERATE, StepState.WAITING),
    ]
    claimed = line.go_on(job_id, Stage.GENERATE)
    assert (first.work.spec.seed, claimed.work.spec.seed) == (7, roll_seed(7, 2))
    assert claimed.work.spec.model_copy(update={"seed": 7}) == first.work.spec
    assert recorded(claimed.work.outputs) == {"enhance", "screen"}
    assert "rerolled" in line.events(job_id)

    # When that roll is accepted, it is the one that is published
    line.finish(claimed)
    line.finish_job(job_id)
    assert (line.job(job_id).state, line.job(job_id).roll) == (JobState.SUCCEEDED, 2)
    assert [(row.roll, row.score) for row in _score_rows(line)] == [(1, 1.0), (2, 0.0)]


def test_the_last_roll_that_is_rejected_fails_the_job_and_a_retry_gives_one_more(line: Line) -> None:
    job_id = _scored(line)
    _reject(line, job_id)
    _reject(line, job_id)
    job = line.job(job_id)
    assert (job.state, job.error_code, job.roll) == (JobState.FAILED, "gate_failed", 2)
    assert job.error == "roll 2 was rejected and is the last: it is black"

    with line.database.transaction() as session:
        assert cancel_retry_approve.retry(session, job_id)
    assert (line.job(job_id).state, line.job(job_id).roll) == (JobState.WAITING, 3)
    line.finish_job(job_id)
    assert line.job(job_id).state is JobState.SUCCEEDED


def test_what_a_lost_worker_says_of_an_earlier_roll_is_refused(line: Line) -> None:
    # Given a worker that lost its lease while it scored, and another that rejected the clip
    job_id = _scored(line)
    zombie = line.go_on(job_id, Stage.SCORE)
    line.expire(job_id)
    with line.database.transaction() as session:
        recovery.end_leases(session)
    _reject(line, job_id)

    # Then neither its finish nor a late message changes anything
    before = line.snapshot()
    assert not line.finish(zombie).recorded
    assert not line.finish(zombie, result_of(zombie, Outcome.REJECTED)).recorded
    assert line.try_claim(job_id, Stage.SCORE) is None
    assert line.snapshot() == before
    assert [row.roll for row in _score_rows(line)] == [1]


def test_a_cancel_beats_a_gate(line: Line) -> None:
    job_id = _scored(line)
    claimed = line.go_on(job_id, Stage.SCORE)
    with line.database.transaction() as session:
        assert cancel_retry_approve.cancel(session, job_id)

    line.finish(claimed, result_of(claimed, Outcome.REJECTED))

    assert (line.job(job_id).state, line.job(job_id).roll) == (JobState.CANCELLED, 1)


def test_a_new_roll_needs_no_checkpoint_of_the_one_before(line: Line) -> None:
    job_id = _scored(line)
    claimed = line.go_on(job_id, Stage.GENERATE)
    with line.database.transaction() as session:
        checkpoints.record(session, claimed, CheckpointRef(5, 5, "checkpoints/x", "a" * 64, 1, {}))
    line.finish(claimed)
    claimed = line.go_on(job_id, Stage.SCORE)

    assert line.finish(claimed, result_of(claimed, Outcome.REJECTED)).unneeded == ("checkpoints/x",)

    with line.database.reading() as session:
        assert session.scalars(select(Checkpoint)).all() == []


def test_a_clip_is_scored_where_it_lies_and_elsewhere_when_that_host_is_gone(line: Line) -> None:
    # Given a clip that was encoded
    job_id = _scored(line)
    claimed = line.go_on(job_id, Stage.ENCODE)
    finished = line.finish(claimed)
    assert (finished.next_stage, finished.queue) == (Stage.SCORE, encode_queue(HANDOFF))

    # When nobody can read the folder any more
    with line.database.transaction() as session:
        workers.leave(session, "w1")
    line.worker(CPU_QUEUE, name="w2")
    with line.database.transaction() as session:
        assert recovery.rewind_lost_handoffs(session, gone_ms=-1_000) == 0
        assert recovery.move_lost_scores(session, gone_ms=-1_000) == 1

    # Then any CPU scores it
    (item,) = line.admit()
    assert (item.stage, item.queue, item.scored) == (Stage.SCORE, CPU_QUEUE, True)


def test_a_rewind_scores_the_clip_anew(line: Line) -> None:
    job_id = _scored(line)
    claimed = line.go_on(job_id, Stage.PUBLISH)
    with line.database.transaction() as session:
        outcomes.rewind(session, claimed, to=Stage.GENERATE, reason="gone")
    assert line.states(job_id)[Stage.SCORE] is StepState.PENDING

    line.finish_job(job_id)

    assert len(_score_rows(line)) == 1


def test_a_rewound_clip_that_is_rejected_then_leaves_nothing_open_of_its_roll(line: Line) -> None:
    # Given a clip that was accepted, whose frames were lost before it was published
    job_id = _scored(line)
    publishing = line.go_on(job_id, Stage.PUBLISH)
    with line.database.transaction() as session:
        outcomes.rewind(session, publishing, to=Stage.GENERATE, reason="gone")

    _reject(line, job_id)  # as on another type of GPU, whose pixels differ

    left = {step.stage: step.state for step in line.steps(job_id) if step.roll == 1}
    assert left[Stage.PUBLISH] is StepState.CANCELLED
    line.finish_job(job_id)
    assert (line.job(job_id).state, line.job(job_id).roll) == (JobState.SUCCEEDED, 2)


def test_scores_are_replaced_by_the_same_scorer_and_kept_beside_anothers(line: Line) -> None:
    job_id = _scored(line)
    line.finish_job(job_id)
    again = (score_of("checks.black", 0.5), score_of("vbench.imaging_quality", None, weights={"m": "1" * 64}))

    with line.database.transaction() as session:
        scores.record(session, job_id, 1, again)
    time.sleep(0.005)  # the clock counts milliseconds
    with line.database.transaction() as session:
        scores.record(session, job_id, 1, (score_of("checks.black", 0.7, decoder="other"),))

    rows = _score_rows(line)
    assert sorted((row.metric, row.score) for row in rows if row.score is not None) == [
        ("checks.black", 0.5),
        ("checks.black", 0.7),
    ]
    (missing,) = (row for row in rows if row.score is None)
    assert (missing.reason, missing.weights_digest is None) == ("too short", False)
    with line.database.reading() as session:
        shown = runs.of_jobs(session, [job_id])[job_id]
    assert [(row.metric, row.score) for row in shown] == [("checks.black", 0.7), ("vbench.imaging_quality", None)]


def test_an_evaluation_run_is_ended_once(line: Line) -> None:
    batch_id = line.submit(count=3)
    with line.database.transaction() as session:
        run_id = runs.open_run(session, batch_id, kind="batch", metrics=["checks"])
        assert runs.clips_left(session, batch_id) == (3, 0)

    with line.database.transaction() as session:
        assert runs.close_run(session, run_id, complete=False, summary={"scored": 2}) == "incomplete"
        assert runs.close_run(session, run_id, complete=True) is None

    with line.database.reading() as session:
        run = runs.get_run(session, run_id)
        assert (run.state.value, run.expected, run.summary) == ("incomplete", 3, {"scored": 2})
        assert [found.id for found in runs.runs(session, batch_id=batch_id)] == [run_id]
