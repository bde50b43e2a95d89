"""Counts the remaining work in segments, because a clip of ten takes ten times as long as a clip of one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.clips import batches
from db.evals import score_steps
from db.models import Batch, Event, Job, Step
from pipeline.states import JobState, Stage, StepState

TO_DO = (JobState.WAITING, JobState.IN_FLIGHT)


@dataclass(frozen=True, slots=True)
class RemainingWork:
    """The segments that a batch's open jobs still have to generate."""

    segments: int = 0
    longest: int = 0
    """The most that one clip has left: a clip's segments are made one after the other."""


def of_all_batches(session: Session) -> dict[str, RemainingWork]:
    """Return the remaining work of each batch that nothing stops."""
    return of_batches(session, session.scalars(select(Batch.id).where(Batch.active, ~Batch.paused, ~Batch.over_budget)))


def of_batches(session: Session, batch_ids: Iterable[str]) -> dict[str, RemainingWork]:
    """Return the batches' remaining work. A clip of one segment counts until it ends; one of several, by segment."""
    ids = list(batch_ids)
    by_batch = {}
    for batch_id, counted in batches.counts(session, ids).items():
        jobs = sum(counted[state] for state in TO_DO)
        by_batch[batch_id] = RemainingWork(jobs, min(jobs, 1))
    unfinished = [batch_id for batch_id, work in by_batch.items() if work.segments]
    return by_batch | _of_long_clips(session, _with_segments(session, unfinished))


def _with_segments(session: Session, batch_ids: Sequence[str]) -> list[str]:
    """Return the batches with clips of several segments, or whose history, which would say so, was removed."""
    rows = session.execute(
        select(Event.batch_id, Event.data).where(Event.batch_id.in_(batch_ids), Event.kind == "submitted")
    )
    plain = {
        batch_id
        for batch_id, data in rows
        if "needs" in data and all(need.get("segments") == need["jobs"] for need in data["needs"])
    }
    return [batch_id for batch_id in batch_ids if batch_id not in plain]


def _of_long_clips(session: Session, batch_ids: Sequence[str]) -> dict[str, RemainingWork]:
    """Counted job by job."""
    if not batch_ids:
        return {}
    generated = (
        select(func.count())
        .select_from(Step)
        .where(Step.job_id == Job.id, Step.roll == Job.roll, Step.stage == Stage.GENERATE, Step.state == StepState.DONE)
        .correlate(Job)
        .scalar_subquery()
    )
    wanted = func.coalesce(Job.spec["segments"].as_integer(), 1)
    remaining = (
        select(Job.batch_id, (wanted - generated).label("segments"))
        .where(Job.batch_id.in_(batch_ids), Job.state.in_(TO_DO))
        .subquery()
    )
    rows = session.execute(
        select(remaining.c.batch_id, func.sum(remaining.c.segments), func.max(remaining.c.segments)).group_by(
            remaining.c.batch_id
        )
    )
    return {batch_id: RemainingWork(int(segments), int(longest)) for batch_id, segments, longest in rows}


def unfinished(session: Session) -> Sequence[str]:
    """Ids of the batches that still have jobs to do, or clips to be scored, oldest first."""
    going = Batch.active | Batch.id.in_(list(score_steps.left(session)))
    return session.scalars(select(Batch.id).where(going).order_by(Batch.id)).all()
