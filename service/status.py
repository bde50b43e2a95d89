"""The status of batches, jobs and workers, from their rows."""

from sqlalchemy.orm import Session

from db import events, workers
from db.clips import batches, jobs, spending
from db.evals import runs
from db.models import Batch, Job
from db.queue import pauses
from db.reading import history
from db.scheduling import capacity
from pipeline.settings import Settings
from pipeline.spec import JobSpec
from pipeline.states import JobState
from service.forecast import of_batch
from service.views.base import when
from service.views.batches import ScoreSummaryView, StatusView, batch_view
from service.views.clips import file_views
from service.views.events import event_view
from service.views.jobs import (
    JobDetailView,
    attempt_view,
    has_random_weights,
    job_view,
    newest_task_url,
    roll_views,
    running_view,
    score_view,
    segment_views,
    step_view,
)
from service.views.workers import WorkerView
from service.waiting import job_views, waits_of

_FAILED_SHOWN = 10


def status_of(session: Session, batch: Batch, settings: Settings, *, with_workers: bool = True) -> StatusView:
    """Return where a batch stands; who may not see the line's workers gets none."""
    # A batch with a budget knows what it used; of the others the attempts are added up, at the prices of now.
    limited = batch.max_gpu_ms is not None or batch.max_cost is not None
    prices = (batch.prices or {}) if limited else settings.prices
    used = spending.usage(session, batch.id, prices)
    paused = pauses.paused_queues(session)
    failed = batches.job_rows(session, batch.id, states=(JobState.FAILED, JobState.BLOCKED), limit=_FAILED_SHOWN)
    waiting = waits_of(session, batch, settings)
    counts = batches.counts(session, [batch.id])[batch.id]
    return StatusView(
        batch=batch_view(batch, counts, reason=waiting[0].reason if waiting else None),
        outlook=of_batch(session, batch, settings),
        gpu_seconds=used.gpu_ms / 1000,
        cost=used.cost,
        paused_queues=list(paused),
        running=[running_view(*step) for step in batches.running_steps(session, batch.id)],
        waiting=waiting,
        rolls=runs.rolls_of_batch(session, batch.id),
        scores={
            metric: ScoreSummaryView(scored=scored, not_scored=missing, mean=mean, failed=failed)
            for metric, (scored, missing, mean, failed) in runs.means(session, batch.id).items()
        },
        errors=dict(history.failures(session, batch.id)),
        failed=[job_view(job) for job in failed],
        workers=worker_views(session) if with_workers else [],
    )


def worker_views(session: Session) -> list[WorkerView]:
    """Return every live worker."""
    paused, now = pauses.paused_queues(session), workers.now(session)
    return [
        WorkerView.of(
            worker,
            ready=not worker.draining and (worker.gpu_type is None or capacity.ready(worker, now)),
            paused_queues=[queue for queue in worker.queues if pauses.is_paused(queue, paused)],
            seen_at=when(worker.seen_at),
        )
        for worker in workers.alive(session)
    ]


def job_detail(session: Session, job: Job, settings: Settings) -> JobDetailView:
    """Return all that is known of a job."""
    steps = history.steps_of_job(session, job.id)
    spec, step_of = JobSpec.model_validate(job.spec), {step.id: step for step in steps}
    site, flower = settings.serve.public_url, settings.serve.flower_url
    return JobDetailView(
        job=job_views(session, [job], settings)[0],
        url=None if site is None else f"{site}/jobs/{job.id}",
        task_url=newest_task_url(flower, steps),
        spec=spec.model_dump(mode="json") | {"random_weights": has_random_weights(job.spec)},
        prompt_used=history.prompts_used(session, [job.id]).get(job.id),
        rolls=roll_views(job, steps),
        scores=[score_view(score) for score in runs.of_jobs(session, [job.id]).get(job.id, [])],
        segments=segment_views(job, spec, steps, history.segments_of_job(session, job)),
        steps=[step_view(step) for step in steps],
        attempts=[
            *(attempt_view(run, step_of[run.step_id], flower) for run in history.attempts_of_job(session, job.id)),
            *(attempt_view(run, None, flower) for run in history.scoring_attempts(session, job)),
        ],
        files=file_views(jobs.artifacts(session, [job.id]).get(job.id, {}), {}),
        events=[event_view(event) for event in events.of_job(session, job.id)],
    )
