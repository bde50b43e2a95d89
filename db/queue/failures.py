"""Attempts that failed: the step is tried again after a backoff or in another way, or the job fails."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import events
from db.clips import jobs, memory_ladder, segments
from db.models import StageRun, Step
from db.notify import wake_dispatcher
from db.queue.attempt_endings import Finished, end_attempt_as, end_cancelled
from db.session import now_ms
from pipeline.errors import FailureClass, StageError
from pipeline.policy.retry import RetryDecision, decide
from pipeline.states import AttemptOutcome, JobState, Stage, StepState
from pipeline.work import Claim

CRASH_CODES = ("generator_crashed", "generator_hung")
"""Codes of ``CrashError``, as attempts' rows have them."""
_COUNTERS = {FailureClass.RETRYABLE: "errors", FailureClass.CRASH: "crashes"}
"""The one of a step's counters that bounds the tries after a failure; ``faults`` those of the other classes."""


def fail(session: Session, claimed: Claim, error: StageError) -> Finished:
    """Record a failed attempt: tried again after a backoff, or the job fails."""
    work = claimed.work
    job = jobs.lock(session, work.job_id)
    counter = _COUNTERS.get(error.failure_class, "faults")
    count = session.scalars(select(getattr(Step, counter)).where(Step.id == claimed.step_id)).one() + 1
    proven = error.failure_class is FailureClass.CRASH and count > 1 and _worker_is_sound(session, claimed)
    decision = decide(error.failure_class, count, proven=proven)
    problem: dict[str, Any] = {"error_code": error.code, "error": str(error)[:4000], counter: count}
    if job.cancel_requested:
        return end_cancelled(session, claimed)
    if work.stage is Stage.GENERATE and error.failure_class is FailureClass.OUT_OF_MEMORY:
        following = memory_ladder.after_failure(session, claimed.step_id, claimed.queue, work.spec, str(error))
        if following is not None:
            return _try_differently(session, claimed, following, problem)
        decision = RetryDecision(again=False)
    if not decision.again:
        recorded = end_attempt_as(
            session, claimed, AttemptOutcome.FAILED, state=StepState.FAILED, finished_at=now_ms(), **problem
        )
        if recorded:
            segments.end_open_steps(session, work.job_id)
            jobs.conclude(
                session, work.job_id, JobState.FAILED, error_code=error.code, error=f"{work.stage.value}: {error}"
            )
        return Finished(recorded)
    recorded = end_attempt_as(
        session,
        claimed,
        AttemptOutcome.RETRIED,
        state=StepState.WAITING,
        queue=None,
        not_before=now_ms() + decision.delay_ms,
        **problem,
    )
    if recorded:
        jobs.move(session, work.job_id, JobState.WAITING)
        wake_dispatcher(session, after_ms=decision.delay_ms)
    return Finished(recorded)


def _try_differently(
    session: Session, claimed: Claim, following: memory_ladder.NextTry, problem: dict[str, Any]
) -> Finished:
    """Queue a clip that did not fit again, at once and in another way; charged to none of its tries."""
    columns = {name: problem[name] for name in ("error_code", "error")} | following.columns
    recorded = end_attempt_as(session, claimed, AttemptOutcome.RETRIED, state=StepState.WAITING, queue=None, **columns)
    if recorded:
        work = claimed.work
        events.record(session, "memory_rung", batch_id=work.batch_id, job_id=work.job_id, **following.event_data)
        jobs.move(session, work.job_id, JobState.WAITING)
    return Finished(recorded)


def _worker_is_sound(session: Session, claimed: Claim) -> bool:
    """Return whether the step crashed on this worker before, and another job's of this queue succeeded there since."""
    there = (StageRun.worker == claimed.worker, StageRun.queue == claimed.queue)
    last = session.execute(
        select(StageRun.id, StageRun.ended_at)
        .where(StageRun.step_id == claimed.step_id, StageRun.error_code.in_(CRASH_CODES), *there)
        .order_by(StageRun.id.desc())
        .limit(1)
    ).one_or_none()
    if last is None:
        return False
    since = (StageRun.ended_at >= last.ended_at, StageRun.id > last.id)  # the first for the index, the second is exact
    others = select(StageRun.id).where(*there, *since, StageRun.outcome == AttemptOutcome.DONE)
    return session.scalars(others.where(StageRun.job_id != claimed.work.job_id).limit(1)).first() is not None


def fail_for_good(session: Session, claimed: Claim, *, code: str, message: str) -> Finished:
    """The job fails with this error, whatever tries are left."""
    jobs.lock(session, claimed.work.job_id)
    recorded = end_attempt_as(
        session,
        claimed,
        AttemptOutcome.FAILED,
        state=StepState.FAILED,
        finished_at=now_ms(),
        error_code=code,
        error=message[:4000],
    )
    if recorded:
        segments.end_open_steps(session, claimed.work.job_id)
        jobs.conclude(session, claimed.work.job_id, JobState.FAILED, error_code=code, error=message)
    return Finished(recorded)
