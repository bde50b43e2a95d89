"""Evaluation runs: begun with all their steps, and one step of them, from claim to finish."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from celery import Task
from sqlalchemy.orm import Session

from db.clips import batches
from db.evals import runs, score_leases, score_steps
from db.evals.score_leases import ScoreClaim
from pipeline import failpoints
from pipeline.errors import FatalError, StageError, StoppedError
from pipeline.work import ScoreRecord, StoredClip
from tasks.worker import contexts
from tasks.worker.context import WorkerContext
from tasks.worker.lease_keeper import LeaseKeeper
from tasks.worker.step import persist

logger = logging.getLogger(__name__)


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
        return score_leases.claim(session, step_id, queues=runtime.claimable, worker=runtime.name, lease_ms=lease_ms)

    claimed = persist(runtime, take)
    if claimed is None:
        return
    failpoints.hit("after_claim", "score_clips")
    try:
        with LeaseKeeper(runtime, claimed) as keeper:
            unread = _score(runtime, claimed, keeper)
    except StoppedError:
        persist(runtime, lambda session: score_leases.release(session, claimed))
        return
    except StageError as error:
        problem = error
        logger.info("scoring failed", extra={**claimed.event_data, "code": error.code})
    except Exception as error:
        logger.exception("scoring failed unexpectedly", extra=claimed.event_data)
        problem = FatalError(f"{type(error).__name__}: {error}")
    else:
        failpoints.hit("after_work", "score_clips")
        persist(runtime, lambda session: score_leases.finish(session, claimed, unread=unread))
        return
    persist(runtime, lambda session: score_leases.fail(session, claimed, problem))


def _score(runtime: WorkerContext, claimed: ScoreClaim, keeper: LeaseKeeper) -> int:
    from pipeline.stages import score_clips  # noqa: PLC0415

    def record(clip: StoredClip, scores: Sequence[ScoreRecord]) -> None:
        if not persist(runtime, lambda session: score_leases.record(session, claimed, clip, scores)):
            raise StoppedError("lease lost", keep=False)

    settings = runtime.settings.eval
    device = "cuda" if (runtime.gpu_type or "cpu") != "cpu" and settings.device == "cpu" else None
    models = runtime.models.scorers(device)
    return score_clips.run(
        claimed.work, models, runtime.storage, record, clip_bytes=settings.clip_bytes, check=keeper.check
    )
