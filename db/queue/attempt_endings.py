"""The end of every attempt: one conditional UPDATE that holds for the current attempt alone, and the attempt's row.

The ways to end one are in ``db.queue.finishing``, ``db.queue.failures``, ``db.queue.releases`` and
``db.queue.rewinds``; each changes the job's state in the same transaction as its step's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Update, update
from sqlalchemy.orm import Session

from db import events
from db.clips import jobs, segments
from db.clips.attempts import record_attempt
from db.models import STEPS
from db.queue.leases import CURRENT, fence
from db.session import now_ms
from pipeline.states import AttemptOutcome, JobState, Stage, StepState
from pipeline.work import Claim


@dataclass(frozen=True, slots=True)
class DispatchedStep:
    """A step of the same job that was dispatched."""

    segment: int
    stage: Stage
    queue: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The result of ending an attempt. ``recorded`` is False when the attempt was fenced."""

    recorded: bool
    next_stage: Stage | None = None
    queue: str | None = None
    """The queue that the next step was dispatched to; None: it waits for the dispatcher."""
    others: tuple[DispatchedStep, ...] = ()
    """Steps beside the next one that were dispatched, each for a chain of its own."""
    unneeded: tuple[str, ...] = ()
    """Keys of objects that no row points at any more: checkpoints of a job that has ended."""


def ending_update(**values: Any) -> Update:
    """The conditional UPDATE that ends the current attempt."""
    return update(STEPS).where(CURRENT).values(lease_until=None, worker=None, **values).returning(STEPS.c.started_at)


def end_attempt(
    session: Session,
    claimed: Claim,
    outcome: AttemptOutcome,
    ending: Update,
    values: dict[str, Any] | None = None,
    *,
    error_code: str | None = None,
    error: str | None = None,
) -> bool:
    """End an attempt by one conditional UPDATE; False when the attempt is no longer the current one."""
    connection = session.connection()
    started = connection.execute(ending, {**fence(claimed), **(values or {})}).one_or_none()
    work = claimed.work
    if started is None:
        events.record(
            session,
            "fenced",
            batch_id=work.batch_id,
            job_id=work.job_id,
            stage=work.stage.value,
            attempt=claimed.attempt,
            worker=claimed.worker,
            outcome=outcome.value,
        )
        return False
    record_attempt(
        session,
        step_id=claimed.step_id,
        job_id=work.job_id,
        stage=work.stage,
        attempt=claimed.attempt,
        queue=claimed.queue,
        worker=claimed.worker,
        started_at=started[0],
        overlapped_ms=claimed.overlapped_ms,
        resumed=work.checkpoint is not None,
        outcome=outcome,
        error_code=error_code,
        error=error,
    )
    return True


def end_attempt_as(session: Session, claimed: Claim, outcome: AttemptOutcome, **values: Any) -> bool:
    """End an attempt in one of the rarer ways: ``values`` are the step's new columns."""
    problem = {name: values.get(name) for name in ("error_code", "error")}
    return end_attempt(session, claimed, outcome, ending_update(**values), **problem)


def end_cancelled(session: Session, claimed: Claim) -> Finished:
    """End an attempt whose job was asked to stop, and the job with it."""
    recorded = end_attempt_as(
        session, claimed, AttemptOutcome.CANCELLED, state=StepState.CANCELLED, finished_at=now_ms()
    )
    if not recorded or segments.one_runs(session, claimed.work.job_id):  # then the last of them ends the job
        return Finished(recorded)
    return Finished(recorded, unneeded=jobs.conclude(session, claimed.work.job_id, JobState.CANCELLED))
