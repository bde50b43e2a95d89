"""Continuation states of segments: a row each, written in the transaction that finishes the segment."""

from functools import lru_cache

from sqlalchemy import Insert, delete, select
from sqlalchemy.orm import Session

from db.base import upsert
from db.models import ContinuationState
from db.session import now_ms
from pipeline.work import ContinuationRef, StepWork

GIVEN = -1
"""The segment of a state that another job left: what the first segment of a clip that extends it starts from."""


def record(session: Session, work: StepWork, state: ContinuationRef) -> None:
    """Keep what the segment left; one that is there already, of a segment that was made again, is replaced."""
    put(session, work.job_id, work.roll, work.segment, state)


def put(session: Session, job_id: str, roll: int, segment: int, state: ContinuationRef) -> None:
    """Write the row of that job, roll and segment."""
    connection = session.connection()
    values = {"job_id": job_id, "roll": roll, "segment": segment, "kind": state.kind, "version": state.version}
    connection.execute(_putting(connection.dialect.name), {**values, "payload": state.payload, "blobs": state.blobs})


@lru_cache(maxsize=2)
def _putting(dialect: str) -> Insert:
    columns = ("kind", "version", "payload", "blobs", "created_at")
    return upsert(dialect, ContinuationState, ("job_id", "roll", "segment"), columns, created_at=now_ms())


def before(session: Session, job_id: str, roll: int, segment: int) -> ContinuationRef | None:
    """Return the state that this segment of a job starts from."""
    if segment == 0:
        return _one(session, job_id, None, GIVEN)
    return _one(session, job_id, roll, segment - 1)


def last(session: Session, job_id: str, roll: int) -> ContinuationRef | None:
    """Return the state that a clip which extends this one starts from."""
    rows = select(ContinuationState.segment).where(ContinuationState.job_id == job_id, ContinuationState.roll == roll)
    newest = session.scalars(rows.order_by(ContinuationState.segment.desc()).limit(1)).one_or_none()
    return None if newest is None or newest == GIVEN else _one(session, job_id, roll, newest)


def _one(session: Session, job_id: str, roll: int | None, segment: int) -> ContinuationRef | None:
    query = select(ContinuationState).where(ContinuationState.job_id == job_id, ContinuationState.segment == segment)
    row = session.scalars(query if roll is None else query.where(ContinuationState.roll == roll)).one_or_none()
    return None if row is None else ContinuationRef(row.kind, row.version, row.payload, row.blobs)


def drop(session: Session, job_id: str, *, keep: int) -> None:
    """Forget the states of a job but those of the segment ``keep``; their blobs are the sweeper's."""
    session.execute(
        delete(ContinuationState)
        .where(ContinuationState.job_id == job_id, ContinuationState.segment.not_in((keep, GIVEN)))
        .execution_options(synchronize_session=False)
    )
