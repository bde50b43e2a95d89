"""One job: its row, its moves along the allowed states, and its end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, cast

from sqlalchemy import Table, bindparam, case, delete, exists, insert, literal, select, update
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.dml import ReturningUpdate

from db import events, measurements
from db.clips.batch_closing import close_batch
from db.models import ArtifactRow, Checkpoint, Job, Step
from db.moves import moving
from db.notify import wake_dispatcher
from db.session import now_ms
from pipeline.errors import ConflictError, NoSuchRowError, NotFoundError
from pipeline.states import TERMINAL_JOB_STATES, JobState, StepState
from pipeline.work import Artifact

# Written as a list of what is open, so that the index on (batch, state) finds one at once.
OPEN = [state for state in JobState if state not in TERMINAL_JOB_STATES]
_JOBS = cast(Table, Job.__table__)
_ARTIFACTS = select(ArtifactRow).where(ArtifactRow.job_id.in_(bindparam("job_ids", expanding=True)))
_RECORD_ARTIFACT = insert(cast(Table, ArtifactRow.__table__)).values(created_at=now_ms())


def get(session: Session, job_id: str) -> Job:
    """Raises NotFoundError."""
    job = session.get(Job, job_id)
    if job is None:
        raise NoSuchRowError(f"job {job_id!r} does not exist; `vgen list` shows batches, `vgen list BATCH` its jobs")
    return job


def find(session: Session, job_id: str) -> Job | None:
    return session.get(Job, job_id)


def lock(session: Session, job_id: str) -> Job:
    """The job's row, held until the transaction ends, so that cancel and finish cannot pass each other."""
    job = session.scalars(
        select(Job).where(Job.id == job_id).with_for_update().execution_options(populate_existing=True)
    ).one_or_none()
    if job is None:
        raise NotFoundError(f"job {job_id!r} does not exist")
    return job


_UNLESS_CANCELLED = (
    select(_JOBS.c.id).where(_JOBS.c.id == bindparam("p_job_id"), ~_JOBS.c.cancel_requested).with_for_update()
)


def lock_unless_cancelled(session: Session, job_id: str) -> bool:
    """Lock the job's row as ``lock`` does; False, and nothing locked, when it is asked to stop."""
    return session.connection().execute(_UNLESS_CANCELLED, {"p_job_id": job_id}).one_or_none() is not None


def move(session: Session, job_id: str, to: JobState) -> None:
    """Change a job's state along an allowed move; a job that is already there stays.

    One that is to wait stays in flight while another step of it is.
    """
    if session.connection().execute(_moving(to), {"p_job_id": job_id}).one_or_none() is None:
        raise ConflictError(f"job {job_id}: its state cannot become {to.value}")
    if to is JobState.WAITING:
        wake_dispatcher(session)


def keep_back(session: Session, job_ids: Sequence[str]) -> None:
    """Make the steps of held jobs wait for a person's word (``pending``): what waits is read at each dispatch."""
    of_them = moving(Step, StepState.PENDING, StepState.WAITING).where(Step.job_id.in_(job_ids))
    session.connection().execute(of_them)


@cache
def _moving(to: JobState) -> ReturningUpdate[tuple[str]]:
    state: Any = to
    if to is JobState.WAITING:
        # Of a clip of several segments another step may be dispatched, or with a worker.
        live = exists().where(Step.job_id == Job.id, Step.state.in_((StepState.DISPATCHED, StepState.RUNNING)))
        state = case((live, literal(JobState.IN_FLIGHT.value)), else_=literal(JobState.WAITING.value))
    return moving(Job, to, stays=True).where(Job.id == bindparam("p_job_id")).values(state=state).returning(_JOBS.c.id)


def conclude(
    session: Session, job_id: str, to: JobState, *, error_code: str | None = None, error: str | None = None
) -> tuple[str, ...]:
    """Bring a job to a terminal state, and its batch to rest with the last one.

    Returns the keys of its checkpoints' objects, whose rows went with this: a job that failed keeps them for a retry.
    """
    values = {"p_job_id": job_id, "p_code": error_code, "p_error": error[:4000] if error else None}
    ended = session.connection().execute(_concluding(to), values).one_or_none()
    if ended is None:
        raise ConflictError(f"job {job_id}: its state cannot become {to.value}")
    batch_id, others_open, has_checkpoints = ended
    events.record(session, f"job_{to.value}", batch_id=batch_id, job_id=job_id, code=error_code)
    measurements.record_ended(session, [job_id], to, code=error_code)
    if not others_open:
        close_batch(session, batch_id)
    return forget_checkpoints(session, [job_id]) if has_checkpoints and to is not JobState.FAILED else ()


def forget_checkpoints(session: Session, job_ids: Sequence[str]) -> tuple[str, ...]:
    """Remove the rows of these jobs' checkpoints; the keys of their objects."""
    forgotten = delete(Checkpoint).where(Checkpoint.job_id.in_(job_ids)).returning(Checkpoint.key)
    return tuple(session.scalars(forgotten.execution_options(synchronize_session=False)))


@cache
def _concluding(to: JobState) -> ReturningUpdate[Any]:
    other = aliased(Job)
    return (
        moving(Job, to)
        .where(Job.id == bindparam("p_job_id"))
        .values(error_code=bindparam("p_code"), error=bindparam("p_error"))
        .returning(
            _JOBS.c.batch_id,
            exists().where(other.batch_id == _JOBS.c.batch_id, other.state.in_(OPEN), other.id != _JOBS.c.id),
            exists().where(Checkpoint.job_id == _JOBS.c.id),
        )
    )


def note_remix(session: Session, batch_id: str, *, of: str) -> None:
    """Write down that the jobs of a new batch are remixes of another job."""
    session.execute(update(Job).where(Job.batch_id == batch_id).values(remixed_from=of))


def publish(session: Session, job_id: str, roll: int, artifacts: Sequence[Artifact]) -> tuple[str, ...]:
    """Record the published objects and end the job; the keys of what it needs no more, as ``conclude`` says.

    Raises:
        ValueError: there is no video among them; a job succeeds with exactly one.
    """
    if [item.kind for item in artifacts].count("video") != 1:
        raise ValueError(f"job {job_id}: published {[item.kind for item in artifacts]}; expected exactly one video")
    session.connection().execute(
        _RECORD_ARTIFACT,
        [
            {
                "job_id": job_id,
                "kind": item.kind,
                "roll": roll,
                "key": item.key,
                "sha256": item.sha256,
                "size": item.size,
                "media_type": item.media_type,
            }
            for item in artifacts
        ],
    )
    return conclude(session, job_id, JobState.SUCCEEDED)


def artifacts(session: Session, job_ids: Sequence[str]) -> dict[str, dict[str, ArtifactRow]]:
    """The published objects of jobs, by job id and kind."""
    by_job: dict[str, dict[str, ArtifactRow]] = {}
    for row in session.scalars(_ARTIFACTS, {"job_ids": job_ids}):
        by_job.setdefault(row.job_id, {})[row.kind] = row
    return by_job
