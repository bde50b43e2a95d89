"""Recovery from lost messages and dead workers: the only code that ends leases.

Each function handles at most one page and is safe to run from any number of processes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select, true
from sqlalchemy.orm import Session

from db import events, workers
from db.clips import jobs, segments
from db.clips.attempts import record_attempt
from db.models import LIVE_INDEX, Step
from db.queue import releases, rewinds
from db.session import now_ms
from pipeline.policy.retry import MAX_LOSSES, MAX_OTHER
from pipeline.policy.routes import encode_queue
from pipeline.states import AttemptOutcome, JobState, Stage, StepState

_PAGE = 200


@dataclass(frozen=True, slots=True)
class _Lost:
    """A running step whose lease is over."""

    step_id: int
    attempt: int
    job_id: str


def end_leases(session: Session, *, all_of_them: bool = False) -> int:
    """Return running steps whose lease is over to waiting; return how many there were.

    ``all_of_them`` is for a solo run that has just taken its home's lock: nobody else can hold a lease then.
    """
    query = select(Step.id, Step.attempt, Step.job_id).where(Step.state == StepState.RUNNING, LIVE_INDEX)
    if not all_of_them:
        query = query.where(Step.lease_until < now_ms())
    # Sorted here, for one order of locks: asked to sort, SQLite reads every step instead of the index.
    expired = [_Lost(*row) for row in sorted(session.execute(query.limit(_PAGE)), key=lambda row: row[0])]
    for lost in expired:
        _end_lease(session, lost, ignore_clock=all_of_them)
    return len(expired)


def _end_lease(session: Session, lost: _Lost, *, ignore_clock: bool) -> None:
    job = jobs.lock(session, lost.job_id)
    step = session.scalars(
        select(Step)
        .where(
            Step.id == lost.step_id,
            Step.attempt == lost.attempt,
            Step.state == StepState.RUNNING,
            true() if ignore_clock else Step.lease_until < now_ms(),  # renewed since it was found
        )
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one_or_none()
    if step is None:
        return
    # A person ended the solo run that held it, or its machine did: that says nothing of the job, whose generator is a
    # child that the run would have seen crash. Elsewhere a lost host counts if that attempt got nowhere.
    losses = step.losses + (0 if ignore_clock else 1)
    crashes = step.crashes + (0 if ignore_clock or step.progress_step > 0 else 1)
    record_attempt(
        session,
        step_id=step.id,
        job_id=step.job_id,
        stage=step.stage,
        attempt=step.attempt,
        queue=step.queue,
        worker=step.worker,
        started_at=step.started_at,
        outcome=AttemptOutcome.LEASE_ENDED,
        error_code="worker_lost",
        error=f"worker {step.worker} no longer renewed its lease",
    )
    worker, step.worker, step.lease_until = step.worker, None, None
    step.losses, step.crashes = losses, crashes
    if job.cancel_requested:
        step.state = StepState.CANCELLED
    elif losses >= MAX_LOSSES or crashes >= MAX_OTHER:
        step.state, step.error_code = StepState.FAILED, "worker_lost"
    else:
        step.state, step.queue = StepState.WAITING, None
    outcome = step.state
    if outcome is not StepState.WAITING:
        step.finished_at = session.scalars(select(now_ms())).one()
    session.flush()
    events.record(session, "lease_ended", batch_id=job.batch_id, job_id=job.id, stage=step.stage.value, worker=worker)
    if outcome is StepState.CANCELLED:
        if not segments.one_runs(session, job.id):  # else the last of them ends the job
            jobs.conclude(session, job.id, JobState.CANCELLED)
    elif outcome is StepState.FAILED:
        segments.end_open_steps(session, job.id)
        message = f"{step.stage.value}: its workers were lost {losses} times"
        jobs.conclude(session, job.id, JobState.FAILED, error_code="worker_lost", error=message)
    else:
        jobs.move(session, job.id, JobState.WAITING)


def dispatched_counts(session: Session, *, older_than_ms: int) -> dict[str, tuple[int, int]]:
    """(all, old) dispatched steps by queue; old ones were dispatched longer ago than ``older_than_ms``."""
    old = func.count().filter(Step.dispatched_at < now_ms() - older_than_ms)
    rows = session.execute(
        select(Step.queue, func.count(), old).where(Step.state == StepState.DISPATCHED, LIVE_INDEX).group_by(Step.queue)
    )
    return {queue: (count, aged) for queue, count, aged in rows if queue is not None}


def redispatch(session: Session, queues: Sequence[str], *, older_than_ms: int) -> int:
    """Return dispatched steps of these queues whose messages seem lost to waiting; return how many there were.

    A message that was not lost after all finds nothing to claim, or claims what was dispatched again: both are right.
    """
    rows = session.execute(
        select(Step.id, Step.job_id, Step.batch_id, Step.stage)
        .where(
            Step.state == StepState.DISPATCHED,
            LIVE_INDEX,
            Step.queue.in_(queues),
            Step.dispatched_at < now_ms() - older_than_ms,
        )
        .order_by(Step.id)
        .limit(_PAGE)
    ).all()
    count = 0
    for step_id, job_id, batch_id, stage in rows:
        if releases.return_to_waiting(session, step_id, job_id):
            events.record(session, "message_lost", batch_id=batch_id, job_id=job_id, stage=stage.value)
            count += 1
    return count


def _unserved(session: Session, stage: Stage, gone_ms: int) -> Sequence[tuple[int, str, str | None]]:
    """(step, job, queue) of dispatched steps whose hand-off no live worker has been able to read for so long."""
    served = workers.served_handoffs(session)
    rows = session.execute(
        select(Step.id, Step.job_id, Step.queue)
        .where(
            Step.state == StepState.DISPATCHED,
            LIVE_INDEX,
            Step.stage == stage,
            Step.queue.startswith(encode_queue("")),
            Step.queue.not_in(served),
            Step.dispatched_at < now_ms() - gone_ms,
        )
        .limit(_PAGE)
    )
    return sorted(((step_id, job_id, queue) for step_id, job_id, queue in rows), key=lambda row: row[0])


def move_lost_scores(session: Session, *, gone_ms: int) -> int:
    """Return score steps to waiting whose hand-off's host is gone: their clips are in the store too, for any CPU."""
    rows = _unserved(session, Stage.SCORE, gone_ms)
    return sum(releases.return_to_waiting(session, step_id, job_id) for step_id, job_id, _ in rows)


def rewind_lost_handoffs(session: Session, *, gone_ms: int) -> int:
    """Rewind steps whose hand-off no live worker can read: their frames are made again. Return how many there were.

    A hand-off counts as gone when its step has been in the broker for ``gone_ms`` and none of its readers is alive.
    """
    rows = _unserved(session, Stage.ENCODE, gone_ms)
    for step_id, job_id, queue in rows:
        job = jobs.lock(session, job_id)
        step = session.get(Step, step_id, populate_existing=True)
        if step is not None and step.state is StepState.DISPATCHED and not job.cancel_requested:
            reason = f"no live worker reads {queue}"
            rewinds.rewind_steps(session, job_id, job.batch_id, step.roll, step.segment, Stage.GENERATE, reason)
    return len(rows)
