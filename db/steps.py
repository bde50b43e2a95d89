"""Claim, renew, finish: every way in which a worker changes a step.

Each function is one short transaction of its caller, ends in one conditional UPDATE, and says by its result whether
the condition held. A job's state changes in the same transaction as its step's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, exists, insert, select, update
from sqlalchemy.orm import Session

from db import events, jobs
from db.models import Batch, Job, Queue, Segment, StageRun, Step
from db.session import now_ms
from pipeline.errors import FailureClass, StageError
from pipeline.retry import MAX_LOSSES, decide
from pipeline.spec import BatchOptions, JobSpec
from pipeline.stages.base import Outcome, StageResult, StepWork
from pipeline.states import AttemptOutcome, JobState, Stage, StepState, next_stage


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a step until the lease ends; ``attempt`` is the fence."""

    step_id: int
    attempt: int
    queue: str
    worker: str
    work: StepWork


@dataclass(frozen=True, slots=True)
class Control:
    """What a running step is told when it renews its lease."""

    held: bool
    """False when the lease is lost: stop, and record nothing."""
    cancel: bool = False
    pause: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of a finish. ``recorded`` is False when the attempt was fenced."""

    recorded: bool
    next_stage: Stage | None = None


def _not_paused() -> ColumnElement[bool]:
    return ~exists().where(Queue.name == Step.queue, Queue.paused) & ~exists().where(
        Batch.id == Step.batch_id, Batch.paused
    )


def claim(
    session: Session, *, job_id: str, segment: int, stage: Stage, queues: Sequence[str], worker: str, lease_ms: int
) -> Claim | None:
    """Take a dispatched step. None when there is nothing to take: done, taken, cancelled, paused, another queue's.

    ``queues`` are those that the worker serves. A claim never takes over a lease, expired or not.
    """
    taken = session.execute(
        update(Step)
        .where(
            Step.job_id == job_id,
            Step.segment == segment,
            Step.stage == stage,
            Step.state == StepState.DISPATCHED,
            Step.queue.in_(queues),
            exists().where(Job.id == Step.job_id, Job.roll == Step.roll, ~Job.cancel_requested),
            _not_paused(),
        )
        .values(
            state=StepState.RUNNING,
            attempt=Step.attempt + 1,
            worker=worker,
            lease_until=now_ms() + lease_ms,
            started_at=now_ms(),
            progress_phase=None,
            progress_step=0,
            progress_total=0,
        )
        .returning(Step.id, Step.attempt, Step.roll, Step.queue)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if taken is None:
        return None
    step_id, attempt, roll, queue = taken
    job, options = session.execute(
        select(Job, Batch.options).join(Batch, Batch.id == Job.batch_id).where(Job.id == job_id)
    ).one()
    outputs: dict[str, dict[str, Any]] = {
        done.value: output or {}
        for done, output in session.execute(
            select(Step.stage, Step.output).where(
                Step.job_id == job_id,
                Step.roll == roll,
                Step.segment == segment,
                Step.state.in_((StepState.DONE, StepState.SKIPPED)),
            )
        )
    }
    work = StepWork(
        job_id=job_id,
        batch_id=job.batch_id,
        line=job.line,
        roll=roll,
        segment=segment,
        stage=stage,
        attempt=attempt,
        spec=JobSpec.model_validate(job.spec),
        options=BatchOptions.model_validate(options),
        outputs=outputs,
    )
    return Claim(step_id, attempt, queue or "", worker, work)


def _current(claimed: Claim) -> ColumnElement[bool]:
    return (Step.id == claimed.step_id) & (Step.attempt == claimed.attempt) & (Step.state == StepState.RUNNING)


def look(session: Session, claimed: Claim) -> Control:
    """What ``renew`` says, without extending the lease: a read, cheap enough for every second."""
    row = session.execute(
        select(Job.cancel_requested, (~_not_paused()).label("paused"))
        .join(Step, Step.job_id == Job.id)
        .where(_current(claimed))
    ).one_or_none()
    return Control(held=False) if row is None else Control(held=True, cancel=bool(row[0]), pause=bool(row[1]))


def renew(
    session: Session, claimed: Claim, *, lease_ms: int, phase: str | None = None, step: int = 0, total: int = 0
) -> Control:
    """Extend the lease, store progress, and learn whether to stop."""
    row = session.execute(
        update(Step)
        .where(_current(claimed))
        .values(lease_until=now_ms() + lease_ms, progress_phase=phase, progress_step=step, progress_total=total)
        .returning(
            select(Job.cancel_requested).where(Job.id == claimed.work.job_id).scalar_subquery(),
            (~_not_paused()).label("paused"),
        )
        .execution_options(synchronize_session=False)
    ).one_or_none()
    return Control(held=False) if row is None else Control(held=True, cancel=bool(row[0]), pause=bool(row[1]))


def _end(session: Session, claimed: Claim, outcome: AttemptOutcome, **values: Any) -> bool:
    """The one conditional UPDATE that ends an attempt; False when the attempt is no longer the current one."""
    started = session.execute(
        update(Step)
        .where(_current(claimed))
        .values(lease_until=None, worker=None, **values)
        .returning(Step.started_at)
        .execution_options(synchronize_session=False)
    ).one_or_none()
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
    session.execute(
        insert(StageRun).values(
            step_id=claimed.step_id,
            job_id=work.job_id,
            stage=work.stage,
            attempt=claimed.attempt,
            queue=claimed.queue,
            worker=claimed.worker,
            started_at=started[0],
            ended_at=now_ms(),
            outcome=outcome,
            error_code=values.get("error_code"),
            error=values.get("error"),
        )
    )
    return True


def _cancelled(session: Session, claimed: Claim) -> Finished:
    """End an attempt whose job was asked to stop, and the job with it."""
    recorded = _end(session, claimed, AttemptOutcome.CANCELLED, state=StepState.CANCELLED, finished_at=now_ms())
    if recorded:
        jobs.conclude(session, claimed.work.job_id, JobState.CANCELLED)
    return Finished(recorded)


def finish(session: Session, claimed: Claim, result: StageResult) -> Finished:
    """Record what a stage made, and make the next step's row (``waiting``; the caller may dispatch it).

    Cancel wins over everything but a finished publish.
    """
    work = claimed.work
    if jobs.lock(session, work.job_id).cancel_requested and work.stage is not Stage.PUBLISH:
        return _cancelled(session, claimed)
    state = StepState.SKIPPED if result.outcome is Outcome.SKIPPED else StepState.DONE
    if not _end(
        session,
        claimed,
        AttemptOutcome(result.outcome.value),
        state=state,
        finished_at=now_ms(),
        output=result.output,
        error_code=None,
        error=None,
    ):
        return Finished(recorded=False)
    if result.outcome is Outcome.BLOCKED:
        reason = str(result.output.get("reason", "the prompt was screened out"))
        jobs.conclude(session, work.job_id, JobState.BLOCKED, error_code="unsafe_prompt", error=reason)
        return Finished(recorded=True)
    if work.stage is Stage.GENERATE:
        _record_segment(session, work, result.output)
    following = next_stage(work.stage)
    if following is None:
        jobs.publish(session, work.job_id, work.roll, result.artifacts)
        return Finished(recorded=True)
    queue_step(session, work.job_id, work.batch_id, work.roll, work.segment, following, work.spec.priority)
    if result.outcome is Outcome.HELD:
        jobs.move(session, work.job_id, JobState.HELD)
        return Finished(recorded=True)
    jobs.move(session, work.job_id, JobState.WAITING)
    return Finished(recorded=True, next_stage=following)


def queue_step(
    session: Session, job_id: str, batch_id: str, roll: int, segment: int, stage: Stage, priority: int
) -> None:
    """Make the next step ``waiting``: a new row, or the one that a rewind left ``pending``."""
    woken = session.execute(
        update(Step)
        .where(
            Step.job_id == job_id,
            Step.roll == roll,
            Step.segment == segment,
            Step.stage == stage,
            Step.state == StepState.PENDING,
        )
        .values(state=StepState.WAITING, queue=None)
        .returning(Step.id)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if woken is None:
        session.execute(
            insert(Step).values(
                job_id=job_id,
                batch_id=batch_id,
                roll=roll,
                segment=segment,
                stage=stage,
                state=StepState.WAITING,
                priority=priority,
            )
        )


def _record_segment(session: Session, work: StepWork, output: dict[str, Any]) -> None:
    session.merge(
        Segment(
            job_id=work.job_id,
            roll=work.roll,
            segment=work.segment,
            prompt=output.get("prompt", work.spec.prompt),
            num_frames=output["num_frames"],
            frames_sha256=output["frames_sha256"],
            numerics=output.get("numerics", {}),
            created_at=session.scalars(select(now_ms())).one(),
        )
    )


def fail(session: Session, claimed: Claim, error: StageError) -> Finished:
    """Record a failed attempt: tried again after a backoff, or the job fails."""
    work = claimed.work
    job = jobs.lock(session, work.job_id)
    counter = "crashes" if error.failure_class is FailureClass.CRASH else "errors"
    count = session.scalars(select(getattr(Step, counter)).where(Step.id == claimed.step_id)).one() + 1
    decision = decide(error.failure_class, count)
    problem: dict[str, Any] = {"error_code": error.code, "error": str(error)[:4000], counter: count}
    if job.cancel_requested:
        return _cancelled(session, claimed)
    if not decision.again:
        recorded = _end(
            session, claimed, AttemptOutcome.FAILED, state=StepState.FAILED, finished_at=now_ms(), **problem
        )
        if recorded:
            jobs.conclude(
                session, work.job_id, JobState.FAILED, error_code=error.code, error=f"{work.stage.value}: {error}"
            )
        return Finished(recorded)
    recorded = _end(
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
    return Finished(recorded)


def release(session: Session, claimed: Claim, *, delay_ms: int = 0) -> Finished:
    """Give a step back unfinished (drain, pause, cancel, back-pressure): no failed attempt."""
    work = claimed.work
    if jobs.lock(session, work.job_id).cancel_requested:
        return _cancelled(session, claimed)
    recorded = _end(
        session,
        claimed,
        AttemptOutcome.RELEASED,
        state=StepState.WAITING,
        queue=None,
        not_before=now_ms() + delay_ms,
    )
    if recorded:
        jobs.move(session, work.job_id, JobState.WAITING)
    return Finished(recorded)


def rewind(session: Session, claimed: Claim, *, to: Stage, reason: str) -> Finished:
    """Have an earlier step done again, because what it left behind is gone. Charged to no budget of that step.

    The step itself counts the rewind as a loss, so that a line whose frames vanish every time comes to an end.
    """
    work = claimed.work
    if jobs.lock(session, work.job_id).cancel_requested:
        return _cancelled(session, claimed)
    losses = session.scalars(select(Step.losses).where(Step.id == claimed.step_id)).one() + 1
    if losses >= MAX_LOSSES:
        return fail_for_good(session, claimed, code="rewound_too_often", message=f"{losses} rewinds; last: {reason}")
    recorded = _end(
        session,
        claimed,
        AttemptOutcome.REWOUND,
        state=StepState.PENDING,
        queue=None,
        losses=losses,
        error=reason[:4000],
    )
    if recorded:
        rewind_steps(session, work.job_id, work.batch_id, work.roll, work.segment, to, reason)
    return Finished(recorded)


def fail_for_good(session: Session, claimed: Claim, *, code: str, message: str) -> Finished:
    """The job fails with this error, whatever tries are left."""
    jobs.lock(session, claimed.work.job_id)
    recorded = _end(
        session,
        claimed,
        AttemptOutcome.FAILED,
        state=StepState.FAILED,
        finished_at=now_ms(),
        error_code=code,
        error=message[:4000],
    )
    if recorded:
        jobs.conclude(session, claimed.work.job_id, JobState.FAILED, error_code=code, error=message)
    return Finished(recorded)


def rewind_steps(session: Session, job_id: str, batch_id: str, roll: int, segment: int, to: Stage, reason: str) -> None:
    """Set the step ``to`` waiting again, and those after it pending. The job's row is locked by the caller."""
    order = list(Stage)
    after = order[order.index(to) + 1 :]
    mine = (Step.job_id == job_id) & (Step.roll == roll) & (Step.segment == segment)
    session.execute(
        update(Step)
        .where(mine, Step.stage.in_(after), Step.state.not_in((StepState.FAILED, StepState.CANCELLED)))
        .values(state=StepState.PENDING, queue=None, lease_until=None, worker=None, finished_at=None)
        .execution_options(synchronize_session=False)
    )
    session.execute(
        update(Step)
        .where(mine, Step.stage == to, Step.state == StepState.DONE)
        .values(state=StepState.WAITING, queue=None, finished_at=None)
        .execution_options(synchronize_session=False)
    )
    jobs.move(session, job_id, JobState.WAITING)
    events.record(session, "rewound", batch_id=batch_id, job_id=job_id, to=to.value, reason=reason[:500])
