"""Deletes a clip: the rows that refer to its files, then the files. The job's row stays as a tombstone."""

from sqlalchemy import delete
from sqlalchemy.orm import Session

from db import events
from db.clips import cancel_retry_approve, jobs
from db.models import ArtifactRow, Checkpoint, ContinuationState
from db.session import now_ms
from pipeline.states import TERMINAL_JOB_STATES

DELETED = "job_deleted"
"""Kind of the event."""


def request(session: Session, job_id: str, *, by: str) -> bool:
    """Delete a job's clip; a job that has not ended is asked to stop, and False returned until it has.

    Raises NotFoundError.
    """
    job = jobs.lock(session, job_id)
    if job.state not in TERMINAL_JOB_STATES:
        if not job.cancel_requested:
            cancel_retry_approve.cancel_all(session, [job_id])
            job = jobs.lock(session, job_id)
        if job.state not in TERMINAL_JOB_STATES:
            return False
    if job.deleted_at is not None:
        return True
    job.deleted_at = now_ms()
    for table in (ArtifactRow, Checkpoint, ContinuationState):
        session.execute(delete(table).where(table.job_id == job_id).execution_options(synchronize_session=False))
    events.record(session, DELETED, batch_id=job.batch_id, job_id=job_id, by=by)
    return True
