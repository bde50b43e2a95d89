"""Forecasts a batch from its rows and the live workers."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import workers
from db.models import Batch
from db.reading import alerts, estimates, remaining
from db.session import now_ms
from pipeline.presets import load_library
from pipeline.settings import Settings
from service.views.base import when
from service.views.batches import OutlookView, StuckView


def stuck(session: Session, batch: Batch, settings: Settings) -> list[estimates.Stuck]:
    """Return the jobs that no live worker can ever run; in solo mode nobody is alive between two runs, which is no
    want of capacity."""
    if settings.solo and batch.active and not workers.alive(session):
        return []
    return estimates.stuck(session, batch, load_library(settings.effective_presets_dir).presets)


def of_batch(session: Session, batch: Batch, settings: Settings) -> OutlookView:
    """Forecast the batch from the rows as they are now."""
    presets = load_library(settings.effective_presets_dir).presets
    now = session.scalars(select(now_ms())).one()
    resting = settings.solo and batch.active and not workers.alive(session)
    estimate = estimates.completion(session, batch, presets)
    if resting and estimate.seconds is None and estimates.why_stopped(session, batch) is None:
        estimate = estimates.Estimate(None, "no vgen process is running: `vgen run` resumes the work")
    seconds, ended = estimate.seconds, not batch.active
    at_risk = None if batch.deadline_at is None or ended else alerts.at_risk(batch.deadline_at, now, seconds)
    return OutlookView(
        stopped=estimates.why_stopped(session, batch),
        stuck=[
            StuckView(jobs=item.jobs, stage=item.stage.value, gpu=list(item.gpu), reason=item.reason)
            for item in stuck(session, batch, settings)
        ],
        segments_left=remaining.of_batches(session, [batch.id])[batch.id].segments,
        expected_at=None if seconds is None or ended else when(now + int(seconds * 1000)),
        no_estimate=estimate.reason or None,
        deadline_at_risk=at_risk,
    )
