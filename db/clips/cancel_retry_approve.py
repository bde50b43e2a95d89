"""Cancel, retry, approve and reject, as changes of a job's rows."""

from collections.abc import Sequence

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from db import events, measurements
from db.clips import jobs, rerolls, segments, succession
from db.clips.batch_closing import close_batch
from db.models import Batch, Event, Job, StageRun, Step
from db.moves import moving
from db.notify import wake_dispatcher
from pipeline.states import AttemptOutcome, JobState, Stage, StepState

_ORDER = {stage: place for place, stage in enumerate(Stage)}
_UNCLAIMED = (StepState.PENDING, StepState.WAITING, StepState.DISPATCHED)
_COUNTERS = ("errors", "faults", "crashes", "losses")
_RETRIED_FROM = {JobState.HELD: (JobState.CANCELLED,), JobState.WAITING: (JobState.FAILED, JobState.CANCELLED)}
"""The states that a retry leaves, by where to: a job that a person has to judge was cancelled, and has not failed."""


def cancel(session: Session, job_id: str) -> bool:
    """Ask a job to stop; at once where no worker holds it. False when it had already ended. Raises NotFoundError."""
    jobs.lock(session, job_id)
    return bool(cancel_all(session, [job_id]))


def cancel_all(session: Session, job_ids: Sequence[str], *, wait: bool = True) -> list[str]:
    """Ask jobs to stop; those that no worker holds end at once. The ids of those that had not ended.

    With ``wait`` False jobs that another transaction has locked are left out: who locks many and waits for each can
    wait in a circle with others.
    """
    open_jobs = _lock_all(session, job_ids, jobs.OPEN, wait=wait)
    ids = list(open_jobs)
    session.execute(
        update(Job).where(Job.id.in_(ids)).values(cancel_requested=True).execution_options(synchronize_session=False)
    )
    change = session.connection().execute
    change(moving(Step, StepState.CANCELLED, *_UNCLAIMED).where(Step.job_id.in_(ids)))
    running = set(session.scalars(select(Step.job_id).where(Step.job_id.in_(ids), Step.state == StepState.RUNNING)))
    ended = [(batch_id, job_id) for job_id, batch_id in open_jobs.items() if job_id not in running]
    is_over = moving(Job, JobState.CANCELLED).where(Job.id.in_([job_id for _, job_id in ended]))
    change(is_over.values(error_code=None, error=None))
    jobs.forget_checkpoints(session, [job_id for _, job_id in ended])
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
    jobs.lock(session, job_id)
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
    # A job that was rewound and then cancelled has several such steps: the earliest goes first, the others follow it.
    for state, step_ids in (
        (StepState.WAITING, [place[2] for place in first.values()]),
        (StepState.PENDING, [place[2] for job_id, place in steps if place != first[job_id]]),
    ):
        again = moving(Step, state, StepState.FAILED, StepState.CANCELLED).where(Step.id.in_(step_ids))
        forgotten = {"error_code": None, "error": None, "not_before": 0, **dict.fromkeys(_COUNTERS, 0)}
        session.connection().execute(again.values(**forgotten))
    for job_id in rejected:
        rerolls.start_next_roll(session, job_id, reason="vgen retry")  # the same clip would only be rejected again
    for job_id, roll in session.execute(
        select(Job.id, Job.roll).where(Job.id.in_(ids), func.coalesce(Job.spec["segments"].as_integer(), 1) > 1)
    ).all():
        segments.unblock(session, job_id, roll)
    succession.hold_back(session, ids)
    held = _need_approval(session, ids)
    jobs.keep_back(session, sorted(held))
    for job_state, members in ((JobState.HELD, held), (JobState.WAITING, ended_jobs.keys() - held)):
        revived = moving(Job, job_state, *_RETRIED_FROM[job_state]).where(Job.id.in_(members))
        session.connection().execute(revived.values(cancel_requested=False, error_code=None, error=None))
    session.execute(
        update(Batch)
        .where(Batch.id.in_(set(ended_jobs.values())))
        .values(active=True)
        .execution_options(synchronize_session=False)
    )
    session.expire_all()
    wake_dispatcher(session)
    events.record_each(session, "retry_requested", [(batch_id, job_id) for job_id, batch_id in ended_jobs.items()])
    return ids


def _lock_all(session: Session, job_ids: Sequence[str], states: Sequence[JobState], *, wait: bool) -> dict[str, str]:
    """Lock those of the jobs that are in one of the states and not deleted; their batches by job id."""
    rows = session.execute(
        select(Job.id, Job.batch_id)
        .where(Job.id.in_(job_ids), Job.state.in_(states), Job.deleted_at.is_(None))
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
    job = jobs.lock(session, job_id)
    if job.state is not JobState.HELD:
        return False
    segments.unblock(session, job_id, job.roll)
    succession.hold_back(session, [job_id])
    jobs.move(session, job_id, JobState.WAITING)
    events.record(session, "approved", batch_id=job.batch_id, job_id=job_id, by=by)
    return True


def reject(session: Session, job_id: str, *, by: str) -> bool:
    """Block a held job. False when it is not held."""
    job = jobs.lock(session, job_id)
    if job.state is not JobState.HELD:
        return False
    unclaimed = (StepState.WAITING, StepState.PENDING)
    unwanted = moving(Step, StepState.CANCELLED, *unclaimed).where(Step.job_id == job_id)
    session.connection().execute(unwanted)
    jobs.conclude(session, job_id, JobState.BLOCKED, error_code="rejected", error=f"rejected by {by}")
    events.record(session, "rejected", batch_id=job.batch_id, job_id=job_id, by=by)
    return True
