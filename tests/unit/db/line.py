"""Drives rows through the line as workers do, without any worker."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select, update

from db import events, workers
from db.clips import batches, jobs
from db.models import Batch, Job, Step, Worker
from db.queue import finishing, leases
from db.queue.outcomes import Finished
from db.reading import history
from db.scheduling import dispatch
from db.session import Database, now_ms
from db.workers import WorkerReport
from pipeline.outputs import EncodeOutput, ScreenOutput
from pipeline.policy.routes import (
    CPU_QUEUE,
    IO_QUEUE,
    encode_queue,
    gpu_queue,
    gpu_type_of,
    preset_queue,
    preset_slug_of,
)
from pipeline.prompts import Submission, parse_bytes
from pipeline.settings import load_settings
from pipeline.spec import BatchOptions, ScoreOptions
from pipeline.states import JobState, Stage, StepState
from pipeline.work import AnyResult, Artifact, Claim, Outcome, ScoreRecord, StageResult
from tests.outputs import enhanced, generated, scored

LEASE_MS = 60_000
HANDOFF = "abcd"
GPU = preset_queue("cpu", "idle")
QUEUES = (IO_QUEUE, CPU_QUEUE, GPU, encode_queue(HANDOFF))
SHA = "a" * 64


def submission(*lines: dict[str, Any], count: int = 0, name: str = "prompts.jsonl") -> Submission:
    """A parsed file of these lines, or of ``count`` plain ones."""
    rows = [*lines, *({"prompt": f"clip {number}"} for number in range(count))]
    text = "\n".join(json.dumps({"preset": "idle", **row}) for row in rows)
    return parse_bytes(text.encode(), name, overrides={}, settings=load_settings())


def result_of(claimed: Claim, outcome: Outcome = Outcome.DONE) -> AnyResult:
    """What a stage of that kind hands back when all goes well."""
    if claimed.work.stage is Stage.GENERATE:
        return StageResult(generated())
    if claimed.work.stage is Stage.PUBLISH:
        key = f"media/{claimed.work.job_id}/{SHA}.mp4"
        return StageResult(None, artifacts=(Artifact("video", key, SHA, 10, "video/mp4"),))
    if claimed.work.stage is Stage.SCORE:
        rejected = outcome is Outcome.REJECTED
        output = scored("it is black" if rejected else None)
        return StageResult(output, outcome, scores=(score_of("checks.black", float(rejected)),))
    if claimed.work.stage is Stage.ENCODE:
        return StageResult(EncodeOutput(probe={}))
    if claimed.work.stage is Stage.ENHANCE:
        return StageResult(enhanced("a quick fox"), outcome)
    return StageResult(ScreenOutput(screened=True, reason="as the classifier says"), outcome)


def score_of(metric: str, value: float | None, **scorer: Any) -> ScoreRecord:
    """A score as the score stage hands it over."""
    reason = "too short" if value is None else None
    return ScoreRecord(metric, value, reason, None, {"weight": 1.0}, 1, {"version": 1, **scorer})


class Line:
    """One database and the moves that tests make on it; each method is one transaction or a few."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def submit(
        self,
        *lines: dict[str, Any],
        count: int = 0,
        owner: str = "ada",
        score: ScoreOptions | None = None,
        **options: Any,
    ) -> str:
        chosen = BatchOptions(score=score)
        with self.database.transaction() as session:
            return batches.submit(
                session, submission(*lines, count=count), name="n", owner=owner, options=chosen, **options
            ).batch_id

    def worker(self, *queues: str, name: str = "w1", slots: int = 1, memory: int | None = None, **more: Any) -> None:
        """A worker that reports itself; one that is given a preset's queue holds that preset."""
        gpu = next((queue for queue in queues or QUEUES if gpu_type_of(queue)), "")
        read = [gpu_queue(gpu_type_of(queue) or "") if queue == gpu else queue for queue in queues or QUEUES]
        report = WorkerReport(
            name, "host", 1, read, slots=slots, gpu_type=gpu_type_of(gpu), memory_bytes=memory, **more
        )
        held = {"assigned_preset": preset_slug_of(gpu), "loaded": preset_slug_of(gpu), "assigned_since": now_ms()}
        with self.database.transaction() as session:
            workers.report(session, report)
            session.execute(update(Worker).where(Worker.name == name).values(held))

    def admit(self, window: int = 64) -> list[dispatch.StepMessage]:
        with self.database.transaction() as session:
            return dispatch.dispatch_waiting(session, window=window) or []

    def claim(self, job_id: str, stage: Stage, *, lease_ms: int = LEASE_MS, queues: tuple[str, ...] = QUEUES) -> Claim:
        claimed = self.try_claim(job_id, stage, lease_ms=lease_ms, queues=queues)
        assert claimed is not None
        return claimed

    def try_claim(
        self,
        job_id: str,
        stage: Stage,
        *,
        lease_ms: int = LEASE_MS,
        queues: tuple[str, ...] = QUEUES,
        segment: int = 0,
        worker: str = "w1",
    ) -> Claim | None:
        with self.database.transaction() as session:
            return leases.claim(
                session, job_id=job_id, segment=segment, stage=stage, queues=queues, worker=worker, lease_ms=lease_ms
            )

    def finish(self, claimed: Claim, result: AnyResult | None = None) -> Finished:
        with self.database.transaction() as session:
            return finishing.finish(session, claimed, result or result_of(claimed))

    def bring_to(self, stage: Stage, *, lease_ms: int = LEASE_MS, **line: Any) -> tuple[str, str, Claim]:
        """A new batch of one job whose step of that stage is running: batch id, job id, the claim."""
        score = ScoreOptions(metrics=("checks",)) if stage is Stage.SCORE else None
        batch_id = self.submit({"prompt": "a cat", **line}, again=True, score=score)
        self.worker()
        return batch_id, f"{batch_id}-000000", self.go_on(f"{batch_id}-000000", stage, lease_ms=lease_ms)

    def go_on(self, job_id: str, stage: Stage, *, lease_ms: int = LEASE_MS) -> Claim:
        """Work off the job's steps until the one of that stage is claimed."""
        for _ in Stage:
            self.make_due(job_id)
            self.admit()
            current = next(step for step in self.steps(job_id) if step.state is StepState.DISPATCHED)
            claimed = self.claim(job_id, current.stage, lease_ms=lease_ms)
            if current.stage is stage:
                return claimed
            self.finish(claimed)
        raise AssertionError(f"{job_id} never reached {stage}")

    def finish_job(self, job_id: str) -> None:
        self.finish(self.go_on(job_id, Stage.PUBLISH))

    def make_due(self, job_id: str) -> None:
        """End a backoff, as the passing of time does."""
        self.change(job_id, not_before=0)

    def expire(self, job_id: str) -> None:
        """End the lease, as the passing of time does."""
        self.change(job_id, only_running=True, lease_until=1)

    def change(self, job_id: str, *, only_running: bool = False, **values: Any) -> None:
        statement = update(Step).where(Step.job_id == job_id).values(**values)
        with self.database.transaction() as session:
            session.execute(statement.where(Step.state == StepState.RUNNING) if only_running else statement)

    def age_dispatch(self, by_ms: int) -> None:
        with self.database.transaction() as session:
            session.execute(update(Step).values(dispatched_at=now_ms() - by_ms))

    def job(self, job_id: str) -> Job:
        with self.database.reading() as session:
            return jobs.get(session, job_id)

    def steps(self, job_id: str) -> list[Step]:
        with self.database.reading() as session:
            return list(history.steps_of_job(session, job_id))

    def step(self, job_id: str, stage: Stage) -> Step:
        return next(step for step in self.steps(job_id) if step.stage is stage)

    def states(self, job_id: str) -> dict[Stage, StepState]:
        return {step.stage: step.state for step in self.steps(job_id)}

    def events(self, job_id: str) -> list[str]:
        with self.database.reading() as session:
            return [event.kind for event in events.of_job(session, job_id)]

    def batch_events(self, batch_id: str) -> list[tuple[str, str | None]]:
        """Kind of each event of the batch and its jobs, and who caused it."""
        with self.database.reading() as session:
            return [(event.kind, event.data.get("by")) for event in events.of_batch(session, batch_id)]

    def batch(self, batch_id: str) -> Batch:
        with self.database.reading() as session:
            return batches.get(session, batch_id)

    def check_sums(self) -> None:
        """Invariant 2, and that a batch is at rest exactly when all its jobs have ended."""
        with self.database.reading() as session:
            every = session.scalars(select(Batch)).all()
            counts = batches.counts(session, [batch.id for batch in every])
        open_states = (JobState.WAITING, JobState.HELD, JobState.IN_FLIGHT)
        for batch in every:
            assert sum(counts[batch.id].values()) == batch.total
            assert batch.active == any(counts[batch.id][state] for state in open_states)

    def snapshot(self) -> list[tuple[Any, ...]]:
        """All that jobs and steps say now."""
        with self.database.reading() as session:
            return [
                *map(tuple, session.execute(select(*Job.__table__.columns).order_by(Job.id))),
                *map(tuple, session.execute(select(*Step.__table__.columns).order_by(Step.id))),
            ]
