"""Closes a batch when all its jobs have ended; the dispatcher reads open batches only.

A session's batch is open until the session is settled: further segments may be asked for.
"""

from sqlalchemy import ColumnElement, exists, select, update
from sqlalchemy.orm import Session

from db.models import Batch, Job, StreamSession
from pipeline.states import TERMINAL_JOB_STATES, JobState

_OPEN = [state for state in JobState if state not in TERMINAL_JOB_STATES]


def close_batch(session: Session, batch_id: str) -> None:
    """Mark a batch as no longer active once all its jobs are terminal, and no session may add another.

    Two last jobs that finish at the same instant may both see the other as unfinished: admission asks again.
    """
    if not session.scalars(select(_all_ended(batch_id))).one():
        return
    # A retry of another job may be about to commit. Only a statement that begins with the lock held sees it.
    session.execute(select(Batch.id).where(Batch.id == batch_id).with_for_update())
    session.execute(
        update(Batch)
        .where(Batch.id == batch_id, Batch.active, _all_ended(batch_id))
        .values(active=False)
        .execution_options(synchronize_session=False)
    )


def close_finished_batches(session: Session) -> None:
    """Close what a job's end missed: batches whose last two jobs ended at the same instant."""
    for (batch_id,) in session.connection().execute(_FINISHED).all():
        close_batch(session, batch_id)


def _all_ended(batch_id: str) -> ColumnElement[bool]:
    growing = exists().where(StreamSession.batch_id == batch_id, StreamSession.settled_at.is_(None))
    return ~exists().where(Job.batch_id == batch_id, Job.state.in_(_OPEN)) & ~growing


_FINISHED = (
    select(Batch.id)
    .where(
        Batch.active,
        ~exists().where(Job.batch_id == Batch.id, Job.state.in_(_OPEN)),
        ~exists().where(StreamSession.batch_id == Batch.id, StreamSession.settled_at.is_(None)),
    )
    .order_by(Batch.id)
)
