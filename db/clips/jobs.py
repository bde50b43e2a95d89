"""One job: its moves, and the changes that a person may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, cast

from sqlalchemy import Table, bindparam, case, delete, exists, func, insert, literal, select, update
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.dml import ReturningUpdate

from db import events, measurements
from db.clips import rerolls, segments
from db.clips.batch_closing import close_batch
from db.models import ArtifactRow, Batch, Checkpoint, Event, Job, StageRun, Step
from db.session import now_ms
from pipeline.errors import ConflictError, NotFoundError
from pipeline.states import JOB_MOVES, TERMINAL_JOB_STATES, AttemptOutcome, JobState, Stage, StepState
from pipeline.work import Artifact

# Written as a list of what is open, so that the index on (batch, state) finds one at once.
_OPEN = [state for state in JobState if state not in TERMINAL_JOB_STATES]
_ORDER = {stage: place for place, stage in enumerate(Stage)}


_JOBS = cast(Table, Job.__table__)
_RECORD_ARTIFACT = insert(cast(Table, ArtifactRow.__table__)).values(created_at=now_ms())


def get(session: Session, job_id: str) -> Job:
    """Raises NotFoundError."""
    job = session.get(Job, job_id)
    if job is None:
        raise NotFoundError(f"job {job_id!r} does not exist; `vgen list` shows batches, `vgen list BATCH` its jobs")
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


def _sources(to: JobState) -> list[JobState]:
    return [state for state, targets in JOB_MOVES.items() if to in targets or state is to]


def move(session: Session, job_id: str, to: JobState) -> None:
    """Change a job's state along an allowed move; a job that is already there stays.

    One that is to wait stays in flight while another step of it is.
    """
    if session.connection().execute(_moving(to), {"p_job_id": job_id}).one_or_none() is None:
        raise ConflictError(f"job {job_id}: its state cannot become {to.value}")


@cache
def _moving(to: JobState) -> ReturningUpdate[tuple[str]]:
    state: Any = to
    if to is JobState.WAITING:
        # Of a clip of several segments another step may be dispatched, or with a worker.
        live = exists().where(Step.job_id == Job.id, Step.state.in_((StepState.DISPATCHED, StepState.RUNNING)))
        state = case((live, literal(JobState.IN_FLIGHT.value)), else_=literal(JobState.WAITING.value))
    return (
        update(_JOBS)
        .where(Job.id == bindparam("p_job_id"), Job.state.in_(_sources(to)))
        .values(state=state)
        .returning(_JOBS.c.id)
    )


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
    return _forget_checkpoints(session, [job_id]) if has_checkpoints and to is not JobState.FAILED else ()


def _forget_checkpoints(session: Session, job_ids: Sequence[str]) -> tuple[str, ...]:
    forgotten = delete(Checkpoint).where(Checkpoint.job_id.in_(job_ids)).returning(Checkpoint.key)
    return tuple(session.scalars(forgotten.execution_options(synchronize_session=False)))


@cache
def _concluding(to: JobState) -> ReturningUpdate[Any]:
    other = aliased(Job)
    sources = [state for state in _sources(to) if state not in TERMINAL_JOB_STATES]
    return (
        update(_JOBS)
        .where(Job.id == bindparam("p_job_id"), Job.state.in_(sources))
        .values(state=to, finished_at=now_ms(), error_code=bindparam("p_code"), error=bindparam("p_error"))
        .returning(
            _JOBS.c.batch_id,
            exists().where(other.batch_id == _JOBS.c.batch_id, other.state.in_(_OPEN), other.id != _JOBS.c.id),
            exists().where(Checkpoint.job_id == _JOBS.c.id),
        )
    )


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


def cancel(session: Session, job_id: str) -> bool:
    """Ask a job to stop; at once where no worker holds it. False when it had already ended. Raises NotFoundError."""
    lock(session, job_id)
    return bool(cancel_all(session, [job_id]))


def cancel_all(session: Session, job_ids: Sequence[str], *, wait: bool = True) -> list[str]:
    """Ask jobs to stop; those that no worker holds end at once. The ids of those that had not ended.

    With ``wait`` False jobs that another transaction has locked are left out: who locks many and waits for each can
    wait in a circle with others.
    """
    open_jobs = _lock_all(session, job_ids, _OPEN, wait=wait)
    ids = list(open_jobs)
    session.execute(
        update(Job).where(Job.id.in_(ids)).values(cancel_requested=True).execution_options(synchronize_session=False)
    )
    session.execute(
        update(Step)
        .where(Step.job_id.in_(ids), Step.state.in_((StepState.PENDING, StepState.WAITING, StepState.DISPATCHED)))
        .values(state=StepState.CANCELLED, finished_at=now_ms())
        .execution_options(synchronize_session=False)
    )
    running = set(session.scalars(select(Step.job_id).where(Step.job_id.in_(ids), Step.state == StepState.RUNNING)))
    ended = [(batch_id, job_id) for job_id, batch_id in open_jobs.items() if job_id not in running]
    session.execute(
        update(Job)
        .where(Job.id.in_([job_id for _, job_id in ended]))
        .values(state=JobState.CANCELLED, finished_at=now_ms(), error_code=None, error=None)
        .execution_options(synchronize_session=False)
    )
    _forget_checkpoints(session, [job_id for _, job_id in ended])
    session.expire_all()
    events.record_each(session, "cancel_requested", [(batch_id, job_id) for job_id, batch_id in open_jobs.items()])
    events.record_each(session, "job_cancelled", ended, code=None)
    measurements.record_ended(session, [job_id for _, job_id in ended], JobState.CANCELLED)
    for batch_id in sorted({batch_id for batch_id, _ in ended}):
        close_batch(session, batch_id)
    return ids


def retry(session: Session, job_id: str) -> bool:
    """Queue a failed or cancelled job again at the step where it ended. False when it is neither.

    Raises NotFoundError.
    """
    lock(session, job_id)
    return bool(retry_all(session, [job_id]))


def retry_all(session: Session, job_ids: Sequence[str], *, wait: bool = True) -> list[str]:
    """Queue failed or cancelled jobs again at the step where each ended; return their ids. ``wait`` as above."""
    ended_jobs = _lock_all(session, job_ids, (JobState.FAILED, JobState.CANCELLED), wait=wait)
    ids = list(ended_jobs)
    first: dict[str, tuple[int, int, int]] = {}
    rejected = _rejected(session, ids)
    steps = [step for step in _ended_steps(session, ids) if step[0] not in rejected]
    for job_id, place in steps:
        first[job_id] = min(place, first.get(job_id, place))
    # Of several (a rewound line that was then cancelled) the earliest goes first; the others follow it.
    for state, step_ids in (
        (StepState.WAITING, [place[2] for place in first.values()]),
        (StepState.PENDING, [place[2] for job_id, place in steps if place != first[job_id]]),
    ):
        session.execute(
            update(Step)
            .where(Step.id.in_(step_ids))
            .values(state=state, queue=None, finished_at=None, error_code=None, error=None)
            .values(not_before=0, errors=0, faults=0, crashes=0, losses=0)
            .execution_options(synchronize_session=False)
        )
    for job_id in rejected:
        rerolls.start_next_roll(session, job_id, reason="vgen retry")  # the same clip would only be rejected again
    for job_id, roll in session.execute(
        select(Job.id, Job.roll).where(Job.id.in_(ids), func.coalesce(Job.spec["segments"].as_integer(), 1) > 1)
    ).all():
        segments.unblock(session, job_id, roll)
    held = _need_approval(session, ids)
    for job_state, members in ((JobState.HELD, held), (JobState.WAITING, ended_jobs.keys() - held)):
        session.execute(
            update(Job)
            .where(Job.id.in_(members))
            .values(state=job_state, cancel_requested=False, error_code=None, error=None, finished_at=None)
            .execution_options(synchronize_session=False)
        )
    session.execute(
        update(Batch)
        .where(Batch.id.in_(set(ended_jobs.values())))
        .values(active=True)
        .execution_options(synchronize_session=False)
    )
    session.expire_all()
    events.record_each(session, "retry_requested", [(batch_id, job_id) for job_id, batch_id in ended_jobs.items()])
    return ids


def _lock_all(session: Session, job_ids: Sequence[str], states: Sequence[JobState], *, wait: bool) -> dict[str, str]:
    """Lock those of the jobs that are in one of the states; their batches by job id."""
    rows = session.execute(
        select(Job.id, Job.batch_id)
        .where(Job.id.in_(job_ids), Job.state.in_(states))
        .order_by(Job.id)
        .with_for_update(skip_locked=not wait)
    )
    return {row[0]: row[1] for row in rows}


def _need_approval(session: Session, job_ids: Sequence[str]) -> set[str]:
    """Jobs that were held and nobody has approved: cancel and retry must not bypass a person's decision."""
    held = session.scalars(
        select(StageRun.job_id).where(StageRun.job_id.in_(job_ids), StageRun.outcome == AttemptOutcome.HELD)
    ).all()
    approved = session.scalars(select(Event.job_id).where(Event.job_id.in_(held), Event.kind == "approved"))
    return set(held) - set(approved)


def _rejected(session: Session, job_ids: Sequence[str]) -> list[str]:
    """Jobs whose last clip the gate turned down."""
    query = select(Job.id).where(Job.id.in_(job_ids), Job.state == JobState.FAILED, Job.error_code == "gate_failed")
    return list(session.scalars(query.order_by(Job.id)))


def _ended_steps(session: Session, job_ids: Sequence[str]) -> list[tuple[str, tuple[int, int, int]]]:
    """(job id, place in the line) of failed and cancelled steps; a place ends in the step's id."""
    rows = session.execute(
        select(Step.id, Step.job_id, Step.segment, Step.stage)
        .join(Job, (Job.id == Step.job_id) & (Job.roll == Step.roll))
        .where(Step.job_id.in_(job_ids), Step.state.in_((StepState.FAILED, StepState.CANCELLED)))
    )
    return [(row.job_id, (row.segment, _ORDER[row.stage], row.id)) for row in rows]


def approve(session: Session, job_id: str, *, by: str) -> bool:
    """Let a held job go on. False when it is not held."""
    job = lock(session, job_id)
    if job.state is not JobState.HELD:
        return False
    move(session, job_id, JobState.WAITING)
    events.record(session, "approved", batch_id=job.batch_id, job_id=job_id, by=by)
    return True


def reject(session: Session, job_id: str, *, by: str) -> bool:
    """Block a held job. False when it is not held."""
    job = lock(session, job_id)
    if job.state is not JobState.HELD:
        return False
    session.execute(
        update(Step)
        .where(Step.job_id == job_id, Step.state == StepState.WAITING)
        .values(state=StepState.CANCELLED, finished_at=now_ms())
        .execution_options(synchronize_session=False)
    )
    conclude(session, job_id, JobState.BLOCKED, error_code="rejected", error=f"rejected by {by}")
    events.record(session, "rejected", batch_id=job.batch_id, job_id=job_id, by=by)
    return True


def artifacts(session: Session, job_ids: Sequence[str]) -> dict[str, dict[str, ArtifactRow]]:
    """The published objects of jobs, by job id and kind."""
    by_job: dict[str, dict[str, ArtifactRow]] = {}
    for row in session.scalars(select(ArtifactRow).where(ArtifactRow.job_id.in_(job_ids))):
        by_job.setdefault(row.job_id, {})[row.kind] = row
    return by_job
