"""A batch's timeline, added up by the database, is what one would find attempt by attempt."""

from __future__ import annotations

import random

import pytest
from sqlalchemy import select, update

from db.clips import batches
from db.models import Batch, Job, StageRun, Step
from db.reading import reports
from db.session import Database
from pipeline.states import AttemptOutcome, JobState, Stage, StepState
from service.views.reports import report_of
from tests.unit.db.line import Line

T0 = 1_700_000_000_000
# The rows here are written as no worker writes them: only their sums matter.
pytestmark = pytest.mark.breaks_rules


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def jobs_of(line: Line, batch_id: str) -> list[str]:
    with line.database.reading() as session:
        return list(session.scalars(select(Job.id).where(Job.batch_id == batch_id).order_by(Job.seq)))


class Writer:
    """Writes attempts of a batch's jobs, each of a step of its own."""

    def __init__(self, line: Line, batch_id: str) -> None:
        self.line, self.batch_id = line, batch_id
        self.jobs = jobs_of(line, batch_id)
        self.roll = 10

    def run(
        self,
        start: int,
        end: int,
        *,
        job: int = 0,
        worker: str = "gpu0",
        queue: str = "vgen.gpu.h200.idle",
        stage: Stage = Stage.GENERATE,
        outcome: AttemptOutcome = AttemptOutcome.DONE,
        output: dict[str, object] | None = None,
    ) -> None:
        self.roll += 1
        with self.line.database.transaction() as session:
            step = Step(
                job_id=self.jobs[job],
                batch_id=self.batch_id,
                roll=self.roll,
                segment=0,
                stage=stage,
                state=StepState.DONE,
                attempt=1,
                finished_at=T0 + end,
                output=output,
            )
            session.add(step)
            session.flush()
            session.add(
                StageRun(
                    step_id=step.id,
                    job_id=self.jobs[job],
                    stage=stage,
                    attempt=1,
                    queue=queue,
                    worker=worker,
                    started_at=T0 + start,
                    ended_at=T0 + end,
                    outcome=outcome,
                )
            )

    def timeline(self, spans: int = 10) -> reports.Timeline:
        with self.line.database.reading() as session:
            found = reports.timeline(session, batches.get(session, self.batch_id), spans)
        assert found is not None
        return found


def test_each_span_holds_what_ran_within_it(line: Line) -> None:
    writer = Writer(line, line.submit(count=2))
    writer.run(0, 250)
    writer.run(300, 1000)
    writer.run(100, 400, worker="cpu", queue="vgen.cpu", stage=Stage.SCREEN)

    found = writer.timeline()

    by_worker = {work.worker: work for work in found.work}
    assert (found.began_at, found.ended_at, found.span_ms) == (T0, T0 + 1000, 100)
    assert by_worker["gpu0"].spans_ms == [100, 100, 50, 100, 100, 100, 100, 100, 100, 100]
    assert by_worker["cpu"].spans_ms == [0, 100, 100, 100, 0, 0, 0, 0, 0, 0]
    assert (by_worker["gpu0"].attempts, by_worker["gpu0"].ms) == (2, 950)
    assert (by_worker["gpu0"].first_at, by_worker["gpu0"].last_at) == (T0, T0 + 1000)


def test_sums_are_those_of_looking_at_every_attempt(line: Line) -> None:
    writer = Writer(line, line.submit(count=3))
    chance = random.Random(7)
    told = []
    for _ in range(60):
        start = chance.randrange(0, 5000)
        end = start + chance.choice([0, 1, 7, 90, 700, 3000])
        worker, outcome = chance.choice("abc"), chance.choice([AttemptOutcome.DONE, AttemptOutcome.RETRIED])
        told.append((worker, outcome, start, end))
        writer.run(start, end, job=chance.randrange(3), worker=worker, outcome=outcome)

    found = writer.timeline(spans=13)

    for work in found.work:
        own = [(s, e) for worker, outcome, s, e in told if (worker, outcome) == (work.worker, work.outcome)]
        zero = found.began_at - T0
        expected = [
            sum(max(0, min(e - zero, (span + 1) * found.span_ms) - max(s - zero, span * found.span_ms)) for s, e in own)
            for span in range(13)
        ]
        assert work.spans_ms == expected
        assert work.ms == sum(expected) == sum(e - s for s, e in own)
        assert work.attempts == len(own)


def test_other_batches_and_parts_of_generating(line: Line) -> None:
    mine, other = Writer(line, line.submit(count=1)), Writer(line, line.submit(count=1, owner="bob"))
    timings = {"denoise": 0.5, "decode": 0.25, "encode_text_and_first_step": 0.1, "hand_off": 0.01}
    mine.run(0, 1000, output={"timings_s": timings})
    mine.run(1000, 2000, output={"timings_s": {"denoise": 0.5}})
    other.run(-500, 300)
    other.run(1800, 2500, worker="gpu1")
    other.run(5000, 6000)
    with line.database.reading() as session:
        assert reports.pipeline_seconds(session, mine.batch_id) == pytest.approx(
            {"denoise": 1.0, "decode": 0.25, "encode_text_and_first_step": 0.1, "hand_off": 0.01}
        )
        others = reports.other_work(session, mine.batch_id, ["vgen.gpu.h200.idle"], T0, T0 + 2000)
        assert others == {"gpu0": 300, "gpu1": 200}
        assert reports.other_work(session, mine.batch_id, [], T0, T0 + 2000) == {}


def test_an_attempt_that_runs_counts_until_now(line: Line) -> None:
    batch_id, job_id, _ = line.bring_to(Stage.GENERATE)
    with line.database.reading() as session:
        found = reports.timeline(session, session.get_one(Batch, batch_id))
    assert found is not None
    running = [work for work in found.work if work.outcome is None]
    assert [(work.stage, work.attempts) for work in running] == [(Stage.GENERATE, 1)]
    assert sum(running[0].spans_ms) == running[0].ms == running[0].last_at - running[0].first_at
    assert line.job(job_id).state is JobState.IN_FLIGHT


def test_a_batch_that_has_not_begun_has_no_timeline(line: Line) -> None:
    batch_id = line.submit(count=1)
    with line.database.reading() as session:
        assert reports.timeline(session, session.get_one(Batch, batch_id)) is None
        assert reports.clips(session, batch_id) == reports.Clips(0, 0, 0)
        assert reports.event_counts(session, batch_id) == {"submitted": 1}


def test_clips_are_counted_with_their_time(line: Line) -> None:
    batch_id = line.submit(count=3)
    with line.database.transaction() as session:
        for state, job_id, more in (("succeeded", 0, {}), ("failed", 1, {"error_code": "x"})):
            session.execute(
                update(Job)
                .where(Job.id == jobs_of(line, batch_id)[job_id])
                .values(state=JobState(state), created_at=T0, finished_at=T0 + 100 * (job_id + 1), **more)
            )
    with line.database.reading() as session:
        assert reports.clips(session, batch_id) == reports.Clips(ended=2, succeeded=1, ms=300)


def test_an_attempt_that_another_went_on_from_is_not_lost_and_a_restarted_worker_is_the_same_gpu(line: Line) -> None:
    writer = Writer(line, line.submit(count=2))
    for output, worker in (({"facts": {"resumed_from_step": 3}}, "gpu0-0a1b2c3d-1@h"), ({}, "gpu0-99999999-2@h")):
        start = 0 if output else 500
        writer.run(start, start + 100, worker=worker, outcome=AttemptOutcome.RELEASED, output=output)
        _next_attempt(line, start + 200, start + 300, worker=worker)

    with line.database.reading() as session:
        view = report_of(session, batches.get(session, writer.batch_id), {})

    (generate,) = view.stages
    assert (generate.attempts, generate.continued_attempts, generate.lost_attempts) == (4, 1, 1)
    assert (generate.continued_seconds, generate.lost_seconds) == (0.1, 0.1)
    (worker,) = view.workers
    assert (worker.worker, len(worker.names), view.gpu_workers, view.gpus[0].workers) == ("gpu0@h", 2, 1, 1)
    assert (worker.busy_share, worker.busy_of_seconds) == (view.gpu_busy_share, view.gpu_busy_of_seconds) == (0.5, 0.8)


def _next_attempt(line: Line, start: int, end: int, *, worker: str) -> None:
    """The step that was written last is done by a second attempt."""
    with line.database.transaction() as session:
        step = session.scalars(select(Step).order_by(Step.id.desc()).limit(1)).one()
        step.attempt = 2
        place = {"stage": Stage.GENERATE, "queue": "vgen.gpu.h200.idle", "worker": worker, "job_id": step.job_id}
        times = {"started_at": T0 + start, "ended_at": T0 + end, "outcome": AttemptOutcome.DONE}
        session.add(StageRun(step_id=step.id, attempt=2, **place, **times))
