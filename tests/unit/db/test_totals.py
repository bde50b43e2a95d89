"""Counters are those of the rows, whatever was folded when and by how many, and never go back."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select, update

from db.clips import cancel_retry_approve, checkpoints, retention
from db.evals import planning, runs, score_steps
from db.models import Event, Job, Measurement, ScoreStep, StageRun, Step
from db.queue import outcomes, recovery
from db.reading import gauges, totals
from db.scheduling import worker_presets
from db.session import Database
from pipeline.errors import RetryableError
from pipeline.policy.routes import ScorePart
from pipeline.states import AttemptOutcome, JobState, Stage, StepState
from pipeline.work import CheckpointRef, Outcome
from tests.unit.db.line import LEASE_MS, SHA, Line, result_of

PRICES = {"cpu": 3.6}
Values = dict[str, dict[str, dict[str, float]]]


def read(database: Database) -> Values:
    with database.reading(one_instant=True) as session:
        return totals.read(session)


def fold(database: Database) -> int:
    with database.transaction() as session:
        return totals.fold(session, PRICES)


def sums(values: Values, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """A counter by some of its labels."""
    by_labels: dict[tuple[str, ...], float] = {}
    for text, buckets in values.get(name, {}).items():
        key = tuple(totals.labels_of(text)[label] for label in labels)
        by_labels[key] = by_labels.get(key, 0) + buckets[totals.COUNTER]
    return by_labels


def flat(values: Values) -> dict[tuple[str, str, str], float]:
    """Every value but costs, which are counted as they are folded."""
    return {
        (name, labels, bucket): value
        for name, by_labels in values.items()
        for labels, buckets in by_labels.items()
        for bucket, value in buckets.items()
        if name != "vgen_cost"
    }


def observed(values: Values, name: str) -> float:
    return sum(sum(count for bound, count in b.items() if bound != totals.SUM) for b in values.get(name, {}).values())


def attempts(database: Database) -> dict[tuple[str, ...], float]:
    with database.reading() as session:
        rows = session.execute(
            select(StageRun.stage, StageRun.outcome, func.count()).group_by(StageRun.stage, StageRun.outcome)
        )
        return {(stage.value, outcome.value): count for stage, outcome, count in rows}


def endings(database: Database) -> dict[tuple[str, ...], float]:
    ends = [f"job_{state.value}" for state in JobState]
    with database.reading() as session:
        kinds = session.execute(select(Event.kind, func.count()).where(Event.kind.in_(ends)).group_by(Event.kind))
        return {(kind.removeprefix("job_"),): count for kind, count in kinds}


def work_with_mishaps(line: Line) -> None:
    """Jobs that succeed, after a retry and a lost worker too; that fail, are tried again, cancelled and blocked."""
    line.worker(slots=10)
    batch_id = line.submit(count=6)
    ids = [f"{batch_id}-{number:06d}" for number in range(6)]
    line.finish_job(ids[0])
    generating = line.go_on(ids[1], Stage.GENERATE)
    with line.database.transaction() as session:
        outcomes.fail(session, generating, RetryableError("the store is away", code="storage_unreachable"))
    line.finish_job(ids[1])
    line.go_on(ids[2], Stage.GENERATE)
    line.expire(ids[2])
    with line.database.transaction() as session:
        recovery.end_leases(session)
    line.finish_job(ids[2])
    with line.database.transaction() as session:
        cancel_retry_approve.cancel_all(session, ids[3:5])
        cancel_retry_approve.retry_all(session, ids[3:4])
    line.finish_job(ids[3])
    screening = line.go_on(ids[5], Stage.SCREEN)
    line.finish(screening, result_of(screening, Outcome.BLOCKED))


def check(database: Database, values: Values) -> None:
    assert sums(values, "vgen_attempts", "stage", "outcome") == attempts(database)
    assert sums(values, "vgen_jobs_finished", "outcome") == endings(database)


def test_counts_are_those_of_the_rows(database: Database) -> None:
    line = Line(database)
    work_with_mishaps(line)

    before = read(database)
    check(database, before)
    assert sums(before, "vgen_jobs_finished", "outcome") == {("succeeded",): 4, ("cancelled",): 2, ("blocked",): 1}
    assert sums(before, "vgen_retries", "cause") == {("storage_unreachable",): 1, ("worker_lost",): 1}
    assert sums(before, "vgen_jobs_submitted", "preset") == {("idle",): 6}
    assert observed(before, "vgen_clip_duration_seconds") == 4
    assert observed(before, "vgen_queue_wait_seconds") == 4
    assert observed(before, "vgen_stage_duration_seconds") == sum(
        count for (_, outcome), count in attempts(database).items() if outcome == AttemptOutcome.DONE
    )

    # Folded, they are the same, and what a sweep removes does not matter any more
    assert fold(database) > 0
    assert fold(database) == 0
    after = read(database)
    assert flat(after) == pytest.approx(flat(before))
    check(database, after)


def test_time_and_cost_are_counted_by_whose_they_are(database: Database) -> None:
    line = Line(database)
    for owner in ("ada", "bob"):
        job_id = f"{line.submit(count=1, owner=owner, again=True)}-000000"
        line.worker()
        claimed = line.go_on(job_id, Stage.GENERATE)
        with database.transaction() as session:  # as if it had begun 100 s ago
            session.execute(update(Step).where(Step.id == claimed.step_id).values(started_at=Step.started_at - 100_000))
        line.finish(claimed)
    fold(database)

    values = read(database)

    assert sums(values, "vgen_gpu_seconds", "tenant", "preset") == pytest.approx(
        {("ada", "idle"): 100, ("bob", "idle"): 100}, abs=5
    )
    assert sums(values, "vgen_gpu_busy_seconds", "gpu_type") == pytest.approx({("cpu",): 200}, abs=10)
    assert sums(values, "vgen_cost", "tenant") == pytest.approx({("ada",): 0.1, ("bob",): 0.1}, abs=0.005)
    (by_labels,) = values["vgen_queue_wait_seconds"].values()
    assert set(by_labels) <= {*map(str, totals.BUCKETS_S), totals.SUM}


def test_attempts_of_evaluation_runs_are_counted_with_their_gpu_time(database: Database) -> None:
    line = Line(database)
    line.worker(slots=2)
    batch_id = line.submit(count=1, owner="ada")
    line.finish_job(f"{batch_id}-000000")
    with database.transaction() as session:
        run_id = runs.open_run(session, batch_id, kind="batch", metrics=["checks.black"])
        planning.plan(session, run_id, batch_id, [ScorePart("clip", 0, 0)])
        (message,) = score_steps.dispatch_waiting(session, window=8, gpu=True)
        claimed = score_steps.claim(session, message.step_id, queues=(message.queue,), worker="w1", lease_ms=LEASE_MS)
        assert claimed is not None
        session.execute(update(ScoreStep).values(started_at=ScoreStep.started_at - 50_000))
        score_steps.finish(session, claimed, unread=0)

    for _ in range(2):
        values = read(database)
        assert sums(values, "vgen_attempts", "stage", "outcome")[totals.EVALUATION, "done"] == 1
        assert sums(values, "vgen_gpu_seconds", "tenant", "preset")["ada", ""] == pytest.approx(50, abs=5)
        fold(database)


def test_a_count_never_goes_back_while_several_fold(database: Database) -> None:
    line = Line(database)
    work_with_mishaps(line)
    with database.transaction() as session:
        for _ in range(3 * totals._PAGE):
            worker_presets.record_load(session, "w1", "cpu", random.choice("ab"), 1.0, source="disk", was=None)

    def loads() -> float:
        return sum(sums(read(database), "vgen_model_loads", "preset").values())

    with ThreadPoolExecutor(5) as pool:
        folders = [pool.submit(fold, database) for _ in range(8)]
        seen = [loads() for _ in range(20)]
        moved = sum(folder.result() for folder in folders)

    assert seen == [3 * totals._PAGE] * 20
    with database.reading() as session:
        left = session.scalars(select(func.count()).select_from(Measurement)).one()
    assert left == 0
    assert moved == 3 * totals._PAGE + sum(attempts(database).values()) + sum(endings(database).values()) + 1
    check(database, read(database))


def test_an_attempt_that_went_on_from_a_checkpoint_is_counted(database: Database) -> None:
    line = Line(database)
    _, job_id, first = line.bring_to(Stage.GENERATE)
    with database.transaction() as session:
        checkpoints.record(session, first, CheckpointRef(3, 6, "checkpoints/key", SHA, 100, {}))
    line.expire(job_id)
    with database.transaction() as session:
        recovery.end_leases(session)
    assert sums(read(database), "vgen_checkpoint_resumes") == {}

    line.finish_job(job_id)

    assert sums(read(database), "vgen_checkpoint_resumes") == {(): 1}


def test_totals_outlive_the_history_that_they_count(database: Database) -> None:
    line = Line(database)
    line.worker()
    batch_id = line.submit(count=1)
    line.finish_job(f"{batch_id}-000000")
    fold(database)
    before = read(database)
    with database.transaction() as session:
        session.execute(update(Job).values(finished_at=1))
        assert retention.drop_history(session, batch_id, older_than_ms=0, dry_run=False) > 0

    assert attempts(database) == {}
    assert read(database) == before


def test_history_that_goes_before_it_is_counted_does_no_harm(database: Database) -> None:
    line = Line(database)
    line.worker()
    batch_id = line.submit(count=1)
    line.finish_job(f"{batch_id}-000000")
    with database.transaction() as session:
        session.execute(update(Job).values(finished_at=1))
        retention.drop_history(session, batch_id, older_than_ms=0, dry_run=False)

    assert fold(database) > 0
    assert sums(read(database), "vgen_jobs_finished", "outcome") == {("succeeded",): 1}


def test_gauges_are_those_of_the_moment(database: Database) -> None:
    line = Line(database)
    line.worker()
    batch_id = line.submit({"prompt": "kept to another", "gpu": "h100"}, {"prompt": "any"}, {"prompt": "held back"})
    for number in (0, 1):
        line.finish(line.go_on(f"{batch_id}-{number:06d}", Stage.SCREEN))
    with database.reading() as session:
        found: Any = gauges.read(session)
        waiting = gauges.waiting_for_a_gpu(session)

    assert sum(found.jobs.values()) == 3
    assert {preset for _, preset in found.jobs} == {"idle"}
    assert {kind: queue.jobs for kind, queue in found.queues.items()} == {"h100": 1, "any": 1}
    assert waiting == 2
    assert found.workers == {("cpu", "ready"): 1}
    assert all(queue.gpu_seconds is None for queue in found.queues.values())

    # Once one of them was sent to its queue and another was made, the time that waits is known
    line.finish_job(f"{batch_id}-000002")
    line.admit()
    with database.reading() as session:
        found = gauges.read(session)
    assert found.queues["cpu"].jobs == 1
    assert found.queues["cpu"].gpu_seconds is not None
    assert line.step(f"{batch_id}-000001", Stage.GENERATE).state is StepState.DISPATCHED
