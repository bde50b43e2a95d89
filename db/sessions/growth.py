"""Adds a segment to a session: a job that continues the last segment that can still succeed."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import events
from db.clips import continuations, jobs, spending
from db.models import Job, Reservation, StreamSession
from db.session import now_ms
from pipeline.ids import job_id
from pipeline.states import JobState
from pipeline.work import ContinuationRef

_LOST = (JobState.FAILED, JobState.BLOCKED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Predecessor:
    """What a segment goes on from."""

    job_id: str
    state: ContinuationRef | None
    """None while that job's frames are still to be generated."""


def segment_job(session: Session, row: StreamSession, segment: int) -> Job | None:
    """The job of a segment; None where it was not asked for."""
    return session.get(Job, job_id(row.batch_id, segment)) if 0 <= segment < row.segments else None


def predecessor(session: Session, row: StreamSession) -> Predecessor | None:
    """What the next segment goes on from: the newest that was made or may be, or what the session was given.

    That job is locked until the transaction ends, so that it does not leave its state unseen meanwhile.
    """
    for segment in reversed(range(row.segments)):
        job = jobs.lock(session, job_id(row.batch_id, segment))
        if job.state not in _LOST and not job.cancel_requested:
            return Predecessor(job.id, continuations.last(session, job.id, job.roll))
    if row.continuation is None:
        return None
    given = row.continuation
    state = ContinuationRef(given["kind"], given["version"], given["payload"], given["blobs"])
    return Predecessor(str(given.get("job_id") or row.id), state)


def note_added(session: Session, row: StreamSession, new: str, *, source: str) -> None:
    """Count a segment whose job was stored; the batch, if it is new, is charged for the GPU that waited for it."""
    if row.segments == 0:
        waited = select(Reservation.queue, Reservation.idle_ms).where(Reservation.session_id == row.id)
        for queue, idle_ms in session.execute(waited).all():
            spending.charge_idle(session, row.batch_id, queue, idle_ms)
    facts = {"session_id": row.id, "segment": row.segments, "source": source}
    row.segments += 1
    row.last_seen = session.scalars(select(now_ms())).one()
    events.record(session, "segment_added", batch_id=row.batch_id, job_id=new, **facts)
