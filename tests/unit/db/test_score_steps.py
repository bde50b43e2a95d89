"""Score steps of evaluation runs: the same claim, lease, fence and window as the line's steps, joined in rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select, update

from db.clips import spending
from db.evals import planning, runs, score_steps
from db.models import ScoreRun, ScoreStep
from db.queue import leases, outcomes, pauses, recovery
from db.reading import history, reports
from db.scheduling import budgets
from db.session import Database, now_ms
from pipeline.errors import OutOfMemoryError, RefusedError, RetryableError
from pipeline.policy.retry import MAX_OTHER
from pipeline.policy.routes import CPU_QUEUE, ScorePart, gpu_queue
from pipeline.states import AttemptOutcome, EvalState, StepState
from pipeline.work import ScoreClaim
from tests.moves import watched
from tests.unit.db.line import LEASE_MS, Line, score_of

GPU_TYPE_QUEUE = gpu_queue("cpu")


class Run:
    """An evaluation run over a batch of two clips, with one step of no model and one of a model."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.database = line.database
        line.worker()
        self.batch_id = line.submit(count=2)
        self.jobs = [f"{self.batch_id}-{seq:06d}" for seq in range(2)]
        with self.database.transaction() as session:
            self.id = runs.open_run(session, self.batch_id, kind="suite", metrics=["checks.black"])
            parts = [ScorePart("none", 0, 1), ScorePart("dino", 0, 1)]
            planning.plan(session, self.id, self.batch_id, parts)

    def make_clips(self) -> None:
        for job_id in self.jobs:
            self.line.finish_job(job_id)

    def admit(self, window: int = 8, *, gpu: bool = False) -> list[score_steps.ScoreMessage]:
        with self.database.transaction() as session:
            return score_steps.dispatch_waiting(session, window=window, gpu=gpu)

    def claim(self, step_id: int, queue: str = CPU_QUEUE, worker: str = "w1") -> ScoreClaim | None:
        with self.database.transaction() as session:
            return score_steps.claim(session, step_id, queues=(queue,), worker=worker, lease_ms=LEASE_MS)

    def begun(self) -> ScoreClaim:
        """The first step of a run whose clips are made, claimed."""
        self.make_clips()
        claimed = self.claim(self.admit()[0].step_id)
        assert claimed is not None
        return claimed

    def finish(self, claimed: ScoreClaim) -> bool:
        with self.database.transaction() as session:
            for clip in claimed.work.clips:
                if not score_steps.record(session, claimed, clip, [score_of("checks.black", 0.0)]):
                    return False
            return score_steps.finish(session, claimed, unread=0).recorded

    def fail(self, claimed: ScoreClaim, error: Any) -> None:
        with self.database.transaction() as session:
            assert outcomes.fail(session, claimed, error).recorded

    def end_leases(self) -> int:
        with self.database.transaction() as session:
            session.execute(update(ScoreStep).where(ScoreStep.state == StepState.RUNNING).values(lease_until=1))
            return recovery.end_leases(session)

    def steps(self) -> list[ScoreStep]:
        with self.database.reading() as session:
            return list(session.scalars(select(ScoreStep).order_by(ScoreStep.id)))

    def states(self) -> list[StepState]:
        return [step.state for step in self.steps()]

    def settled(self) -> tuple[EvalState, dict[str, Any]]:
        with self.database.transaction() as session:
            runs.settle(session)
            run = runs.get_run(session, self.id)
            return run.state, dict(run.summary or {})


@pytest.fixture
def run(database: Database) -> Iterator[Run]:
    run = Run(Line(database))
    with watched(database):
        yield run


def test_steps_wait_for_their_clips_and_the_run_for_its_last_step(run: Run) -> None:
    # While a clip is missing, nothing is admitted
    run.line.finish_job(run.jobs[0])
    assert run.admit() == []
    assert run.states() == [StepState.PENDING] * 2
    run.line.finish_job(run.jobs[1])

    # When the clips are there, a step for each family is, and the window holds
    (one,) = run.admit(window=1)
    assert run.admit(window=1) == []
    (other,) = run.admit(window=2)
    claimed = [run.claim(step.step_id) for step in (one, other)]

    # Then the run is complete once the last has finished, whoever that is
    for step in claimed:
        assert step is not None
        assert [clip.job_id for clip in step.work.clips] == run.jobs
        assert run.settled()[0] is EvalState.OPEN
        assert run.finish(step)
    assert run.settled() == (
        EvalState.COMPLETE,
        {"missing_clips": 0, "unscored_clips": 0, "unread_clips": 0, "failed_steps": 0},
    )


def test_a_step_is_claimed_once_and_only_from_its_queue(run: Run) -> None:
    run.make_clips()
    step_id = run.admit()[0].step_id

    assert run.claim(step_id, queue="vgen.io") is None
    assert run.claim(step_id) is not None
    assert run.claim(step_id) is None
    assert run.claim(10_000) is None


def test_a_worker_that_lost_its_lease_records_nothing(run: Run) -> None:
    claimed = run.begun()
    with run.database.transaction() as session:
        assert leases.renew(session, claimed, lease_ms=LEASE_MS).held
    assert run.end_leases() == 1

    # Given the step is with another worker
    assert run.admit()
    again = run.claim(claimed.step_id, worker="w2")
    assert again is not None
    assert again.attempt == 2

    # Then what the first one still does is refused and recorded as fenced
    with run.database.transaction() as session:
        assert not leases.check_control(session, claimed).held
        assert not leases.renew(session, claimed, lease_ms=LEASE_MS).held
    assert not run.finish(claimed)
    with run.database.reading() as session:
        assert runs.of_jobs(session, run.jobs) == {}
    assert ("fenced", None) in run.line.batch_events(run.batch_id)
    assert run.finish(again)


def test_what_a_lost_worker_recorded_is_not_scored_again(run: Run) -> None:
    claimed = run.begun()
    with run.database.transaction() as session:
        assert score_steps.record(session, claimed, claimed.work.clips[0], [score_of("checks.black", 0.5)])
    run.end_leases()
    run.admit()

    again = run.claim(claimed.step_id)

    assert again is not None
    assert [len(clip.known) for clip in again.work.clips] == [1, 0]
    (step,) = [step for step in run.steps() if step.id == claimed.step_id]
    assert (step.losses, step.crashes) == (1, 0)  # it had got somewhere


def test_tries_are_bounded_and_a_failed_step_makes_the_run_incomplete(run: Run) -> None:
    claimed: ScoreClaim | None = run.begun()
    for _ in range(MAX_OTHER):
        assert claimed is not None
        assert run.end_leases() == 1
        run.admit()
        step_id, claimed = claimed.step_id, run.claim(claimed.step_id)
    assert claimed is None
    (failed,) = [step for step in run.steps() if step.id == step_id]
    assert (failed.state, failed.error_code) == (StepState.FAILED, "worker_lost")

    # When the other is refused at once
    (other,) = [step.id for step in run.steps() if step.id != step_id]
    second = run.claim(other)
    assert second is not None
    run.fail(second, RefusedError("not the weights", code="eval_weights_wrong"))

    # Then nothing is left to do, and that is said
    assert run.states() == [StepState.FAILED] * 2
    state, summary = run.settled()
    assert (state, summary["failed_steps"], summary["unscored_clips"]) == (EvalState.INCOMPLETE, 2, 2)


def test_an_error_of_the_outside_is_tried_again_after_a_pause(run: Run) -> None:
    claimed = run.begun()

    run.fail(claimed, RetryableError("away", code="storage_unavailable"))

    assert run.admit() == []
    (step,) = [step for step in run.steps() if step.id == claimed.step_id]
    assert (step.state, step.errors, step.queue) == (StepState.WAITING, 1, None)
    with run.database.transaction() as session:
        session.execute(update(ScoreStep).values(not_before=0))
    assert [item.step_id for item in run.admit()] == [claimed.step_id]


def test_models_go_to_a_live_gpu_and_elsewhere_when_one_is_too_small(run: Run) -> None:
    run.make_clips()

    bound = {item.step_id: item.queue for item in run.admit(gpu=True)}

    none, dino = (step.id for step in run.steps())
    assert bound == {none: CPU_QUEUE, dino: GPU_TYPE_QUEUE}
    claimed = run.claim(dino, queue=GPU_TYPE_QUEUE)
    assert claimed is not None
    run.fail(claimed, OutOfMemoryError("too small"))
    with run.database.transaction() as session:
        session.execute(update(ScoreStep).values(not_before=0))
    assert [(item.step_id, item.queue) for item in run.admit(gpu=True)] == [(dino, CPU_QUEUE)]


def test_pausing_the_batch_or_the_queue_holds_them(run: Run) -> None:
    run.make_clips()
    first, second = run.admit()
    claimed = run.claim(first.step_id)
    assert claimed is not None
    with run.database.transaction() as session:
        pauses.pause_batch(session, run.batch_id, by="ada")
    assert run.claim(second.step_id) is None
    with run.database.transaction() as session:
        assert leases.check_control(session, claimed).pause
        assert outcomes.release(session, claimed).recorded
        assert pauses.withdraw(session) == 1
        assert score_steps.left(session) == {}
    assert run.admit() == []

    with run.database.transaction() as session:
        pauses.resume_batch(session, run.batch_id, by="ada")
        pauses.pause_queue(session, CPU_QUEUE, by="ada")
    assert run.admit() == []
    with run.database.transaction() as session:
        pauses.resume_queue(session, CPU_QUEUE, by="ada")
    assert len(run.admit()) == 2


def test_a_lost_message_is_sent_again(run: Run) -> None:
    run.make_clips()
    run.admit()
    with run.database.transaction() as session:
        session.execute(update(ScoreStep).values(dispatched_at=now_ms() - 60_000))
        assert recovery.dispatched_counts(session, older_than_ms=10_000) == {CPU_QUEUE: (2, 2)}
        assert recovery.redispatch(session, [CPU_QUEUE], older_than_ms=10_000) == 2
    assert len(run.admit()) == 2


def test_a_cancelled_batch_ends_its_steps_and_fences_who_holds_one(run: Run) -> None:
    claimed = run.begun()

    with run.database.transaction() as session:
        assert score_steps.cancel(session, run.batch_id) == 2
        assert score_steps.cancel(session, run.batch_id) == 0

    assert not run.finish(claimed)
    assert run.settled()[0] is EvalState.INCOMPLETE


def test_every_attempt_is_a_row_with_its_outcome(run: Run) -> None:
    # Given a step that was given back, failed, lost its worker and was done, and one that is cancelled
    claimed: ScoreClaim | None = run.begun()
    for end in (outcomes.release, lambda session, held: outcomes.fail(session, held, RetryableError("away", code="x"))):
        assert claimed is not None
        with run.database.transaction() as session:
            assert end(session, claimed).recorded
            session.execute(update(ScoreStep).values(not_before=0))
        run.admit()
        claimed = run.claim(claimed.step_id)
    assert claimed is not None
    run.end_leases()
    run.admit()
    claimed = run.claim(claimed.step_id)
    assert claimed is not None
    assert run.finish(claimed)
    (other,) = [step.id for step in run.steps() if step.id != claimed.step_id]
    assert run.claim(other) is not None
    with run.database.transaction() as session:
        score_steps.cancel(session, run.batch_id)

    # Then all of it is known, to reports and to who asks for a job
    with run.database.reading(one_instant=True) as session:
        rows = [(row.step_id, row.attempt, row.outcome, row.worker) for row in session.scalars(select(ScoreRun))]
        job = run.line.job(run.jobs[0])
        assert len(history.scoring_attempts(session, job)) == len(rows) == 5
        happened = [entry for entry in history.entries(session, batch_id=run.batch_id) if entry.kind == "attempt"]
        timeline = reports.timeline(session, run.line.batch(run.batch_id))
    done = [AttemptOutcome.RELEASED, AttemptOutcome.RETRIED, AttemptOutcome.LEASE_ENDED, AttemptOutcome.DONE]
    assert rows == [
        *((claimed.step_id, number, outcome, "w1") for number, outcome in enumerate(done, 1)),
        (other, 1, AttemptOutcome.CANCELLED, "w1"),
    ]
    assert [entry.data["outcome"] for entry in happened if entry.source == "score_attempt"] == [row[2] for row in rows]
    assert timeline is not None
    assert sum(work.attempts for work in timeline.work if work.evaluation) == 5


def test_scoring_on_a_gpu_counts_against_the_budget_which_it_then_leaves_alone(run: Run) -> None:
    # Given a batch with a budget of an hour, and a score step that has run for two on a GPU
    run.make_clips()
    with run.database.transaction() as session:
        limits = {"max_gpu_ms": 3_600_000, "max_cost": None, "prices": {"cpu": 2.0}}
        budgets.set_limits(session, run.batch_id, **limits, by="ada")
    (dino,) = [item.step_id for item in run.admit(gpu=True) if item.queue == GPU_TYPE_QUEUE]
    claimed = run.claim(dino, queue=GPU_TYPE_QUEUE)
    assert claimed is not None
    with run.database.transaction() as session:
        session.execute(update(ScoreStep).values(started_at=ScoreStep.started_at - 7_200_000))

    # When it is given back
    with run.database.transaction() as session:
        outcomes.release(session, claimed)

    # Then the GPU's time is the batch's, and what is left is scored on CPUs
    batch = run.line.batch(run.batch_id)
    assert batch.over_budget
    assert batch.cost == pytest.approx(4.0, abs=0.1)
    with run.database.reading() as session:
        assert spending.usage(session, run.batch_id, {"cpu": 2.0}).gpu_ms == pytest.approx(batch.gpu_ms, abs=60_000)
    assert [(item.step_id, item.queue) for item in run.admit(gpu=True)] == [(dino, CPU_QUEUE)]


def test_two_dispatchers_do_not_fill_the_same_room(postgres_database: Database) -> None:
    run = Run(Line(postgres_database))
    run.make_clips()
    with postgres_database.transaction() as session:
        parts = [ScorePart(f"family{number}", 0, 1) for number in range(300)]
        planning.plan(session, run.id, run.batch_id, parts)

    with postgres_database.transaction() as first, postgres_database.transaction() as second:
        sent = [score_steps.dispatch_waiting(session, window=6, gpu=False) for session in (first, second)]

    assert [len(messages) for messages in sent] == [6, 0]
    assert len(run.admit(window=8)) == 2
