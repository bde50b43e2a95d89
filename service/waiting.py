"""Why batches and jobs wait; the only source of the reasons that are shown."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from db.models import Batch, Job
from db.reading import waiting
from db.reading.reasons import Situation
from db.reading.session_waiting import why_no_gpu
from db.reading.sessions import SessionFacts
from pipeline.presets import load_library
from pipeline.settings import Settings
from pipeline.states import TERMINAL_JOB_STATES
from service.views.batches import BatchView
from service.views.jobs import JobView, job_view
from service.views.waiting import ReasonView, WaitView, reason_view, wait_view


def waits_of(session: Session, batch: Batch, settings: Settings) -> list[WaitView]:
    """Return why jobs of the batch are not at work, what needs a person first."""
    return [wait_view(wait) for wait in waiting.of_batch(session, batch, _now(session, settings))]


def job_views(session: Session, rows: Sequence[Job], settings: Settings) -> list[JobView]:
    """Return the views of jobs, each with the reason why it waits."""
    reasons = reasons_of(session, rows, settings)
    return [job_view(job, reason=reasons.get(job.id)) for job in rows]


def reasons_of(session: Session, rows: Sequence[Job], settings: Settings) -> dict[str, ReasonView]:
    """Return why each of these jobs is not at work; those that have ended or are at work are left out."""
    if all(job.state in TERMINAL_JOB_STATES for job in rows):
        return {}
    reasons = waiting.of_jobs(session, rows, _now(session, settings))
    return {job_id: reason_view(reason) for job_id, reason in reasons.items()}


def session_reason(session: Session, facts: SessionFacts, settings: Settings) -> ReasonView | None:
    """Return why a session has no GPU that is ready; None where it has one, or has ended."""
    reason = why_no_gpu(session, facts, _now(session, settings))
    return None if reason is None else reason_view(reason)


def with_reasons(
    session: Session, rows: Sequence[Batch], views: Sequence[BatchView], settings: Settings
) -> list[BatchView]:
    """Return the views of batches, those that have not ended with the reason that keeps most of their jobs waiting."""
    if not any(row.active for row in rows):
        return list(views)
    now = _now(session, settings)
    return [
        view.model_copy(update={"reason": _foremost(session, row, now)}) if row.active else view
        for row, view in zip(rows, views, strict=True)
    ]


def _foremost(session: Session, batch: Batch, now: Situation) -> ReasonView | None:
    waits = waiting.of_batch(session, batch, now)
    return reason_view(waits[0].reason) if waits else None


def _now(session: Session, settings: Settings) -> Situation:
    presets = load_library(settings.effective_presets_dir).presets
    return waiting.situation(session, presets, solo=settings.solo)
