"""Deletes all rows of a batch that has ended, in one transaction. A sweep then finds its objects as orphans."""

from sqlalchemy import ColumnElement, delete, exists, or_, select
from sqlalchemy.orm import Session

from db import events
from db.models import (
    ArtifactRow,
    Batch,
    Checkpoint,
    ClipRating,
    ClipVote,
    ContinuationState,
    EvalRun,
    Event,
    Job,
    RequestKey,
    Reservation,
    Score,
    ScoreRun,
    ScoreStep,
    Segment,
    StageRun,
    Step,
    StreamSession,
)
from pipeline.errors import ConflictError
from pipeline.states import EvalState

BATCH_DELETED = "batch_deleted"
"""Kind of the event, which names no batch: there is none any more."""


def delete_batch(session: Session, batch_id: str, *, by: str) -> int:
    """Remove the batch and all that belongs to it; how many jobs it had.

    In SQLite numbers of attempts are given out again: whoever follows another batch meanwhile may miss some of its
    entries, never a job.

    Raises:
        ConflictError: it has not ended: cancel it first.
    """
    batch = session.scalars(
        select(Batch).where(Batch.id == batch_id).with_for_update().execution_options(populate_existing=True)
    ).one()
    scoring = exists().where(EvalRun.batch_id == batch_id, EvalRun.state == EvalState.OPEN)
    if batch.active or session.scalars(select(scoring)).one():
        raise ConflictError(f"batch {batch_id} has not ended: `vgen cancel {batch_id}` first, or wait for it")
    events.record(session, BATCH_DELETED, batch=batch_id, name=batch.name, jobs=batch.total, by=by)
    for condition in _conditions(batch_id):
        session.execute(delete(condition[0]).where(condition[1]).execution_options(synchronize_session=False))
    total = batch.total
    session.expunge(batch)
    return total


def _conditions(batch_id: str) -> list[tuple[type, ColumnElement[bool]]]:
    """Each table and the rows of the batch in it: what points at a row goes before that row."""
    jobs = select(Job.id).where(Job.batch_id == batch_id)
    of_jobs = (Score, ArtifactRow, Checkpoint, ContinuationState, Segment, StageRun)
    of_batch = (ClipRating, Step, ScoreRun, ScoreStep, EvalRun, RequestKey, Reservation, StreamSession, Event, Job)
    return [
        (ClipVote, or_(ClipVote.first_job_id.in_(jobs), ClipVote.second_job_id.in_(jobs))),
        *((table, table.job_id.in_(jobs)) for table in of_jobs),
        *((table, table.batch_id == batch_id) for table in of_batch),
        (Batch, Batch.id == batch_id),
    ]
