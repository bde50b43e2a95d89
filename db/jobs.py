"""One job: its moves, and what a person may ask of it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, exists, insert, select, update
from sqlalchemy.orm import Session

from db import events
from db.models import ArtifactRow, Batch, Event, Job, StageRun, Step
from db.session import now_ms
from pipeline.errors import ConflictError, NotFoundError
from pipeline.stages.base import Artifact
from pipeline.states import JOB_MOVES, TERMINAL_JOB_STATES, AttemptOutcome, JobState, Stage, StepState

# Written as a list of what is open, so that the index on (batch, state) finds one at once.
_OPEN = [state for state in JobState if state not in TERMINAL_JOB_STATES]


def get(session: Session, job_id: str) -> Job:
    """Raises NotFoundError."""
    job = session.get(Job, job_id)
    if job is None:
        raise NotFoundError(f"job {job_id!r} does not exist; `vgen list` shows batches, `vgen list BATCH` its jobs")
    return job


def lock(session: Session, job_id: str) -> Job:
    """The job's row, held until the transaction ends, so that cancel and finish cannot pass each other."""
    job = session.scalars(
        select(Job).where(Job.id == job_id).with_for_update().execution_options(populate_existing=True)
    ).one_or_none()
    if job is None:
        raise NotFoundError(f"job {job_id!r} does not exist")
    return job


def _sources(to: JobState) -> list[JobState]:
    return [state for state, targets in JOB_MOVES.items() if to in targets or state is to]


def move(session: Session, job_id: str, to: JobState) -> None:
    """Change a job's state along an allowed move; a job that is already there stays."""
    moved = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.state.in_(_sources(to)))
        .values(state=to)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if moved is None:
        raise ConflictError(f"job {job_id}: its state cannot become {to.value}")


def conclude(
    session: Session, job_id: str, to: JobState, *, error_code: str | None = None, error: str | None = None
) -> None:
    """Bring a job to a terminal state, and its batch to rest with the last one."""
    batch_id = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.state.in_(_sources(to)), Job.state.not_in(TERMINAL_JOB_STATES))
        .values(state=to, finished_at=now_ms(), error_code=error_code, error=error[:4000] if error else None)
        .returning(Job.batch_id)
        .execution_options(synchronize_session=False)
    ).scalar_one_or_none()
    if batch_id is None:
        raise ConflictError(f"job {job_id}: its state cannot become {to.value}")
    events.record(session, f"job_{to.value}", batch_id=batch_id, job_id=job_id, code=error_code)
    rest(session, batch_id)


def rest(session: Session, batch_id: str) -> None:
    """Mark a batch as no longer active once all its jobs are terminal.

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


def rest_finished(session: Session) -> None:
    """What ``rest`` missed: batches whose last two jobs ended at the same instant."""
    finished = select(Batch.id).where(Batch.active, ~exists().where(Job.batch_id == Batch.id, Job.state.in_(_OPEN)))
    for batch_id in session.scalars(finished.order_by(Batch.id)).all():
        rest(session, batch_id)


def _all_ended(batch_id: str) -> ColumnElement[bool]:
    return ~exists().where(Job.batch_id == batch_id, Job.state.in_(_OPEN))


def publish(session: Session, job_id: str, roll: int, artifacts: Sequence[Artifact]) -> None:
    """Record the published objects and end the job.

    Raises:
        ValueError: there is no video among them; a job succeeds with exactly one.
    """
    if [item.kind for item in artifacts].count("video") != 1:
        raise ValueError(f"job {job_id}: published {[item.kind for item in artifacts]}; expected exactly one video")
    session.execute(
        insert(ArtifactRow),
        [
            {
                "job_id": job_id,
                "kind": item.kind,
                "roll": roll,
                "key": item.key,
                "sha256": item.sha256,
                "size": item.size,
                "media_type": item.media_type,
                "created_at": session.scalars(select(now_ms())).one(),
            }
            for item in artifacts
        ],
    )
    conclude(session, job_id, JobState.SUCCEEDED)


def cancel(session: Session, job_id: str) -> bool:
    """Ask a job to stop; at once where no worker holds it. False when it had already ended."""
    job = lock(session, job_id)
    if job.state in TERMINAL_JOB_STATES:
        return False
    job.cancel_requested = True
    session.flush()
    events.record(session, "cancel_requested", batch_id=job.batch_id, job_id=job_id)
    session.execute(
        update(Step)
        .where(Step.job_id == job_id, Step.state.in_((StepState.PENDING, StepState.WAITING, StepState.DISPATCHED)))
        .values(state=StepState.CANCELLED, finished_at=now_ms())
        .execution_options(synchronize_session=False)
    )
    running = session.scalars(
        select(Step.id).where(Step.job_id == job_id, Step.state == StepState.RUNNING).limit(1)
    ).one_or_none()
    if running is None:
        conclude(session, job_id, JobState.CANCELLED)
    return True


def retry(session: Session, job_id: str) -> bool:
    """Put a failed or cancelled job back in line at the step where it ended. False when it is neither."""
    job = lock(session, job_id)
    if job.state not in (JobState.FAILED, JobState.CANCELLED):
        return False
    job.state = JobState.WAITING
    job.cancel_requested = False
    job.error_code = job.error = job.finished_at = None
    session.flush()
    for position, step in enumerate(_ended_steps(session, job)):
        # Of several (a rewound line that was then cancelled) the earliest goes first; the others follow it.
        step.state = StepState.PENDING if position else StepState.WAITING
        step.queue = step.finished_at = step.error_code = step.error = None
        step.not_before = step.errors = step.crashes = step.losses = 0
    if _needs_approval(session, job_id):
        job.state = JobState.HELD
    session.flush()
    session.execute(
        update(Batch).where(Batch.id == job.batch_id).values(active=True).execution_options(synchronize_session=False)
    )
    events.record(session, "retry_requested", batch_id=job.batch_id, job_id=job_id)
    return True


def _needs_approval(session: Session, job_id: str) -> bool:
    """Whether the job was held and nobody has approved it: cancel and retry are no way around a person's word."""
    held = exists().where(StageRun.job_id == job_id, StageRun.outcome == AttemptOutcome.HELD)
    approved = exists().where(Event.job_id == job_id, Event.kind == "approved")
    return session.scalars(select(held & ~approved)).one()


def _ended_steps(session: Session, job: Job) -> list[Step]:
    ended = session.scalars(
        select(Step)
        .where(
            Step.job_id == job.id,
            Step.roll == job.roll,
            Step.state.in_((StepState.FAILED, StepState.CANCELLED)),
        )
        .execution_options(populate_existing=True)
    )
    order = list(Stage)
    return sorted(ended, key=lambda step: (step.segment, order.index(step.stage)))


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
    found: dict[str, dict[str, ArtifactRow]] = {}
    for row in session.scalars(select(ArtifactRow).where(ArtifactRow.job_id.in_(job_ids))):
        found.setdefault(row.job_id, {})[row.kind] = row
    return found
