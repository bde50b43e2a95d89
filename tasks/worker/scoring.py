"""Evaluation runs: begun with all their steps, and one step of them, from claim to finish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celery import Task
from sqlalchemy.orm import Session

from db.clips import batches
from db.evals import runs, score_steps
from pipeline.errors import StoppedError
from pipeline.work import ScoreClaim, ScoreRecord, StoredClip
from tasks.worker import contexts
from tasks.worker.context import WorkerContext
from tasks.worker.lease_keeper import LeaseKeeper
from tasks.worker.step import Recorder, perform, persist


def open_run(
    session: Session, batch_id: str, *, kind: str, metrics: Sequence[str], suite: Mapping[str, Any] | None = None
) -> str:
    """Begin an evaluation run over a batch: its row and those of its steps; the run's id.

    Raises:
        InputError: a metric that is none, is external, or needs a reference.
    """
    from pipeline.scoring import families, gate  # noqa: PLC0415  # a worker that scores nothing needs no scorers

    chosen = gate.check_metrics(metrics)
    run_id = runs.open_run(session, batch_id, kind=kind, metrics=metrics, suite=suite)
    jobs = [(job.seq, job.spec.get("labels", {})) for job in batches.job_rows(session, batch_id)]
    score_steps.plan(session, run_id, batch_id, list(families.parts(jobs, chosen)))
    return run_id


def run_score_step(task: Task, step_id: int) -> None:
    """Claim the step, score its clips, and record that it is done, or its failure."""
    runtime = contexts.context_of(task)
    lease_ms = int(runtime.settings.worker.lease_s * 1000)

    def take(session: Session) -> ScoreClaim | None:
        return score_steps.claim(session, step_id, queues=runtime.claimable, worker=runtime.name, lease_ms=lease_ms)

    def work(claimed: ScoreClaim, keeper: LeaseKeeper) -> Recorder[ScoreClaim]:
        unread = _score(runtime, claimed, keeper)
        return lambda session, held: score_steps.finish(session, held, unread)

    perform(runtime, "score_clips", take, work)


def _score(runtime: WorkerContext, claimed: ScoreClaim, keeper: LeaseKeeper) -> int:
    from pipeline.stages import score_clips  # noqa: PLC0415

    def record(clip: StoredClip, scores: Sequence[ScoreRecord]) -> None:
        if not persist(runtime, lambda session: score_steps.record(session, claimed, clip, scores)):
            raise StoppedError("lease lost", keep=False)

    settings = runtime.settings.eval
    device = "cuda" if (runtime.gpu_type or "cpu") != "cpu" and settings.device == "cpu" else None
    models = runtime.models.scorers(device)
    return score_clips.run(
        claimed.work, models, runtime.storage, record, clip_bytes=settings.clip_bytes, check=keeper.check
    )
