"""How far batches and jobs are: what stands at the head of their pages, and changes while these are looked at."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.clips import batches
from db.models import Batch, Job
from db.reading import history
from pipeline.states import StepState
from server.auth import Caller, owned
from server.database import Line
from service.forecast import of_batch
from service.views.batches import BatchView, OutlookView, batch_view
from service.views.jobs import JobView, RunningView, running_view
from service.waiting import job_views, with_reasons

SHOWN = 50
"""Batches of one page."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One batch, and what is to be expected of it while it is at work."""

    batch: BatchView
    outlook: OutlookView | None
    running: tuple[RunningView, ...] = ()

    @property
    def ended(self) -> int:
        return self.batch.total - sum(self.batch.counts[state] for state in ("waiting", "held", "in_flight"))

    @property
    def parts(self) -> list[tuple[str, int, float, float]]:
        """The bar: each state that some job is in, how many are, where its part begins and how wide it is, of 100."""
        order = ("succeeded", "failed", "blocked", "cancelled", "in_flight", "held", "waiting")
        parts, begin = [], 0.0
        for state in order:
            if count := self.batch.counts[state]:
                width = 100 * count / self.batch.total
                parts.append((state, count, round(begin, 3), round(width, 3)))
                begin += width
        return parts


@dataclass(frozen=True, slots=True)
class JobNow:
    """What a job's page says of its state, which changes while it is looked at."""

    job: JobView
    running: tuple[RunningView, ...]


def job_now(session: Session, job: Job, line: Line) -> JobNow:
    segments = job.spec.get("segments", 1)
    steps = [step for step in history.steps_of_job(session, job.id) if step.state is StepState.RUNNING]
    return JobNow(job_views(session, [job], line.settings)[0], tuple(running_view(step, segments) for step in steps))


def page_of_batches(
    session: Session, line: Line, caller: Caller, *, after: str | None
) -> tuple[list[Progress], str | None]:
    """Return a page of batches, newest first, and after which the next page begins."""
    query = owned(select(Batch).order_by(Batch.id.desc()).limit(SHOWN + 1), caller)
    found = session.scalars(query.where(Batch.id < after) if after else query).all()
    shown = found[:SHOWN]
    counts = batches.counts(session, [batch.id for batch in shown])
    views = with_reasons(session, shown, [batch_view(batch, counts[batch.id]) for batch in shown], line.settings)
    rows = [_progress(session, batch, view, line) for batch, view in zip(shown, views, strict=True)]
    return rows, shown[-1].id if len(found) > SHOWN else None


def progress_of(session: Session, batch: Batch, line: Line) -> Progress:
    """Return how far one batch is, with the steps that workers hold now."""
    running = tuple(running_view(*step) for step in batches.running_steps(session, batch.id))
    view = batch_view(batch, batches.counts(session, [batch.id])[batch.id])
    return _progress(session, batch, with_reasons(session, [batch], [view], line.settings)[0], line, running)


def _progress(
    session: Session, batch: Batch, view: BatchView, line: Line, running: tuple[RunningView, ...] = ()
) -> Progress:
    return Progress(view, of_batch(session, batch, line.settings) if batch.active else None, running)
