"""Every end of an attempt, for steps of any leased table, and the one way back to waiting.

An end is one conditional UPDATE that holds for the current attempt alone, and the attempt's row. Where the step is a
job's, the job's state changes in the same transaction. What a finish goes on to is in ``db.queue.finishing``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, bindparam, insert, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import Insert, ReturningUpdate

from db import events, measurements
from db.clips import jobs, memory_ladder, segments, spending
from db.models import ScoreRun, StageRun, Step
from db.moves import LeasedTable, moving, table_of
from db.notify import wake_dispatcher
from db.queue.leases import Held, current, held_by, held_of
from db.session import now_ms
from pipeline.errors import FailureClass, StageError
from pipeline.policy.retry import MAX_LOSSES, MAX_OTHER, RetryDecision, decide
from pipeline.states import AttemptOutcome, JobState, Stage, StepState
from pipeline.work import AnyClaim, Claim, StepWork

CRASH_CODES = ("generator_crashed", "generator_hung")
"""Codes of ``CrashError``, as attempts' rows have them."""
_COUNTERS = {FailureClass.RETRYABLE: "errors", FailureClass.CRASH: "crashes"}
"""The one of a step's counters that bounds the tries after a failure; ``faults`` those of the other classes."""
_OPEN = (StepState.WAITING, StepState.DISPATCHED, StepState.RUNNING)
_LONGEST = 4000
"""Characters of an error that a row keeps."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The result of ending an attempt. ``recorded`` is False when the attempt was fenced."""

    recorded: bool
    next_stage: Stage | None = None
    queue: str | None = None
    """The queue that the next step was dispatched to; None: it waits for the dispatcher."""
    unneeded: tuple[str, ...] = ()
    """Keys of objects that no row points at any more: checkpoints of a job that has ended."""


# The end of an attempt


def ending(table: LeasedTable, to: StepState, **values: Any) -> ReturningUpdate[Any]:
    """The conditional UPDATE that ends the current attempt; ``values`` are more of the step's new columns."""
    started_at = table_of(table).c.started_at
    return moving(table, to, StepState.RUNNING).where(current(table)).values(**values).returning(started_at)


def end(
    session: Session,
    held: Held,
    outcome: AttemptOutcome,
    statement: ReturningUpdate[Any],
    values: Mapping[str, Any] | None = None,
    *,
    error_code: str | None = None,
    error: str | None = None,
) -> bool:
    """End an attempt by ``ending``'s statement, and write its row; False when it is no longer the current one."""
    row = session.connection().execute(statement, {**held.fence, **(values or {})}).one_or_none()
    if row is None:
        fenced(session, held, outcome)
        return False
    started_at: int = row[0]
    columns: dict[str, Any] = {"step_id": held.step_id, "attempt": held.attempt, "queue": held.queue}
    columns |= {"worker": held.worker, "started_at": started_at, "p_overlapped_ms": held.overlapped_ms}
    columns |= {"outcome": outcome, "error_code": error_code, "error": error}
    if held.table is Step:
        columns |= {"job_id": held.job_id, "stage": held.stage}
    else:
        columns |= {"batch_id": held.batch_id}
    session.connection().execute(_attempt_row(held.table), columns)
    of_run = held.table is not Step
    measurements.record_attempt(
        session, step_id=held.step_id, attempt=held.attempt, evaluation=of_run, resumed=held.resumed
    )
    spending.charge(session, held.batch_id, held.queue, started_at + held.overlapped_ms)  # the same length of time
    if held.stage is Stage.GENERATE:  # its GPU has room for another
        wake_dispatcher(session)
    return True


@cache
def _attempt_row(table: LeasedTable) -> Insert:
    runs = StageRun if table is Step else ScoreRun
    return insert(table_of(runs)).values(ended_at=now_ms() - bindparam("p_overlapped_ms", type_=BigInteger))


def fenced(session: Session, held: Held, outcome: AttemptOutcome | None = None) -> None:
    """Record that an attempt tried to end, with which outcome, although it is no longer the current one."""
    facts = {"stage": held.stage.value, "attempt": held.attempt, "worker": held.worker, "outcome": outcome}
    events.record(session, "fenced", batch_id=held.batch_id, job_id=held.job_id, **facts)


def _end_as(session: Session, held: Held, outcome: AttemptOutcome, to: StepState, **columns: Any) -> bool:
    """End an attempt in one of the rarer ways; ``columns`` are more of the step's, its error also the attempt's."""
    problem = {name: columns.get(name) for name in ("error_code", "error")}
    return end(session, held, outcome, ending(held.table, to, **columns), **problem)


def _problem(code: str, message: str) -> dict[str, Any]:
    return {"error_code": code, "error": message[:_LONGEST]}


# What becomes of its job, where it has one


def _lock_job(session: Session, held: Held) -> bool:
    """Lock the step's job until the transaction ends; True when it is asked to stop."""
    return held.job_id is not None and jobs.lock(session, held.job_id).cancel_requested


def _cancel(session: Session, held: Held, outcome: AttemptOutcome, **columns: Any) -> Finished:
    """End an attempt whose job was asked to stop, and the job with it."""
    recorded = _end_as(session, held, outcome, StepState.CANCELLED, **columns)
    if not recorded or held.job_id is None or segments.one_runs(session, held.job_id):
        return Finished(recorded)  # of several that run, the last ends the job
    return Finished(recorded, unneeded=jobs.conclude(session, held.job_id, JobState.CANCELLED))


def _give_up(
    session: Session, held: Held, outcome: AttemptOutcome, *, code: str, message: str, **columns: Any
) -> Finished:
    """End an attempt as the step's last: its job fails."""
    recorded = _end_as(session, held, outcome, StepState.FAILED, **_problem(code, message), **columns)
    if recorded and held.job_id is not None:
        return_to_pending(session, held.job_id)
        error = f"{held.stage.value}: {message}"
        jobs.conclude(session, held.job_id, JobState.FAILED, error_code=code, error=error)
    return Finished(recorded)


def _try_again(session: Session, held: Held, outcome: AttemptOutcome, *, delay_ms: int = 0, **columns: Any) -> Finished:
    """End an attempt whose step waits for another, for so long at least."""
    recorded = _end_as(session, held, outcome, StepState.WAITING, not_before=now_ms() + delay_ms, **columns)
    if recorded:
        wake_dispatcher(session, after_ms=delay_ms)
    if recorded and held.job_id is not None:
        jobs.move(session, held.job_id, JobState.WAITING)
    return Finished(recorded)


# The ways to end one


def end_cancelled(session: Session, claimed: Claim) -> Finished:
    """End an attempt whose job, locked by the caller, was asked to stop."""
    return _cancel(session, held_by(claimed), AttemptOutcome.CANCELLED)


def release(
    session: Session, claimed: AnyClaim, *, delay_ms: int = 0, error_code: str | None = None, error: str | None = None
) -> Finished:
    """Give a step back unfinished (drain, pause, cancel, back-pressure): no failed attempt.

    ``error_code`` and ``error`` say what it waits for; of an earlier attempt's failure nothing is left.
    """
    held = held_by(claimed)
    if _lock_job(session, held):
        return _cancel(session, held, AttemptOutcome.CANCELLED)
    why = {"error_code": error_code, "error": error}
    return _try_again(session, held, AttemptOutcome.RELEASED, delay_ms=delay_ms, **why)


def fail(session: Session, claimed: AnyClaim, error: StageError) -> Finished:
    """Record a failed attempt: tried again after a backoff or in another way, or the step and its job fail."""
    held = held_by(claimed)
    if _lock_job(session, held):
        return _cancel(session, held, AttemptOutcome.CANCELLED)
    counter = _COUNTERS.get(error.failure_class, "faults")
    count = session.scalars(select(getattr(held.table, counter)).where(held.table.id == held.step_id)).one() + 1
    if isinstance(claimed.work, StepWork) and claimed.work.stage is Stage.GENERATE:
        decision = _decide_clip(session, held, claimed.work, error, count)
        if isinstance(decision, memory_ladder.NextTry):
            return _try_differently(session, held, decision, _problem(error.code, str(error)))
    else:
        decision = decide(error.failure_class, count)
    if not decision.again:
        failed = AttemptOutcome.FAILED
        return _give_up(session, held, failed, code=error.code, message=str(error), **{counter: count})
    problem = _problem(error.code, str(error)) | {counter: count}
    return _try_again(session, held, AttemptOutcome.RETRIED, delay_ms=decision.delay_ms, **problem)


def _decide_clip(
    session: Session, held: Held, work: StepWork, error: StageError, count: int
) -> RetryDecision | memory_ladder.NextTry:
    """Whether and how a clip is generated again."""
    if error.failure_class is FailureClass.OUT_OF_MEMORY:
        following = memory_ladder.after_failure(session, held.step_id, held.queue or "", work.spec, str(error))
        return following or RetryDecision(again=False)
    proven = error.failure_class is FailureClass.CRASH and count > 1 and _worker_is_sound(session, held)
    return decide(error.failure_class, count, proven=proven)


def _try_differently(
    session: Session, held: Held, following: memory_ladder.NextTry, problem: dict[str, Any]
) -> Finished:
    """Queue a clip that did not fit again, at once and in another way; charged to none of its tries."""
    finished = _try_again(session, held, AttemptOutcome.RETRIED, **problem, **following.columns)
    if finished.recorded:
        events.record(session, "memory_rung", batch_id=held.batch_id, job_id=held.job_id, **following.event_data)
    return finished


def _worker_is_sound(session: Session, held: Held) -> bool:
    """Return whether the step crashed on this worker before, and another job's of this queue succeeded there since."""
    there = (StageRun.worker == held.worker, StageRun.queue == held.queue)
    last = session.execute(
        select(StageRun.id, StageRun.ended_at)
        .where(StageRun.step_id == held.step_id, StageRun.error_code.in_(CRASH_CODES), *there)
        .order_by(StageRun.id.desc())
        .limit(1)
    ).one_or_none()
    if last is None:
        return False
    since = (StageRun.ended_at >= last.ended_at, StageRun.id > last.id)  # the first for the index, the second is exact
    others = select(StageRun.id).where(*there, *since, StageRun.outcome == AttemptOutcome.DONE)
    return session.scalars(others.where(StageRun.job_id != held.job_id).limit(1)).first() is not None


def rewind(session: Session, claimed: Claim, *, to: Stage, reason: str, segment: int | None = None) -> Finished:
    """Do an earlier step of the job again, because what it left behind is gone. Charged to no budget of that step.

    ``segment`` is that step's, where it is not the same one's.

    The step itself counts the rewind as a loss, so that a line whose frames vanish every time comes to an end.
    """
    work, held = claimed.work, held_by(claimed)
    if _lock_job(session, held):
        return _cancel(session, held, AttemptOutcome.CANCELLED)
    losses = session.scalars(select(Step.losses).where(Step.id == claimed.step_id)).one() + 1
    if losses >= MAX_LOSSES:
        message = f"{losses} rewinds; last: {reason}"
        return _give_up(session, held, AttemptOutcome.FAILED, code="rewound_too_often", message=message)
    columns = {"losses": losses, "error": reason[:_LONGEST]}
    recorded = _end_as(session, held, AttemptOutcome.REWOUND, StepState.PENDING, **columns)
    if recorded:
        again = work.segment if segment is None else segment
        rewind_steps(session, work.job_id, work.batch_id, work.roll, again, to, reason)
    return Finished(recorded)


def rewind_steps(session: Session, job_id: str, batch_id: str, roll: int, segment: int, to: Stage, reason: str) -> None:
    """Set the step ``to`` waiting again, and those after it pending. The job's row is locked by the caller."""
    order = list(Stage)
    after = order[order.index(to) + 1 :]
    of_segment = (Step.job_id == job_id) & (Step.roll == roll) & (Step.segment == segment)
    return_to_pending(session, job_id, of_segment, Step.stage.in_(after), Step.state.in_((*_OPEN, StepState.DONE)))
    again = moving(Step, StepState.WAITING, StepState.DONE).where(of_segment, Step.stage == to)
    session.connection().execute(again)
    jobs.move(session, job_id, JobState.WAITING)
    events.record(session, "rewound", batch_id=batch_id, job_id=job_id, to=to.value, reason=reason[:500])


def return_to_pending(session: Session, job_id: str, *which: ColumnElement[bool]) -> None:
    """Make open steps of a job wait for its other steps (``pending``): all of them, or those of ``which``.

    A running attempt learns of it when it next renews its lease, and can record nothing any more.
    """
    chosen = (Step.job_id == job_id, *(which or (Step.state.in_(_OPEN),)))
    rows = session.scalars(
        select(Step).where(*chosen).order_by(Step.id).with_for_update().execution_options(populate_existing=True)
    ).all()
    for step in rows:
        if step.state is StepState.RUNNING:
            held, statement = held_of(step), ending(Step, StepState.PENDING)
            end(session, held, AttemptOutcome.RELEASED, statement, error="another step of the clip goes first")
    others = moving(Step, StepState.PENDING).where(Step.id.in_([step.id for step in rows]))
    session.connection().execute(others)


def redo_after(session: Session, work: StepWork) -> None:
    """The segments after this one went on from frames that are no longer the clip's (made on another type of GPU)."""
    later = (Step.roll == work.roll, Step.segment > work.segment)
    return_to_pending(session, work.job_id, *later, Step.state.in_((*_OPEN, StepState.DONE)))
    reason = f"segment {work.segment + 1} was made again with other frames"
    for segment in range(work.segment + 1, work.spec.segments):
        facts = {"to": "generate", "segment": segment, "reason": reason}
        events.record(session, "rewound", batch_id=work.batch_id, job_id=work.job_id, **facts)


def end_lease(session: Session, held: Held, *still: ColumnElement[bool], charged: bool) -> bool:
    """End the lease of an attempt whose worker is lost; False when it ended or was renewed meanwhile, or is just now.

    ``still`` are more conditions of the step. ``charged`` counts it: as a loss, and as a crash if it got nowhere.
    """
    cancelled, table = _lock_job(session, held), held.table
    query: Select[Any] = select(table).where(current(table), *still).with_for_update(skip_locked=True)
    step = session.scalars(query.execution_options(populate_existing=True), held.fence).one_or_none()
    if step is None:
        return False
    code, lost, held = "worker_lost", AttemptOutcome.LEASE_ENDED, held_of(step)
    message = f"worker {held.worker} no longer renewed its lease"
    counts = {"losses": step.losses + charged, "crashes": step.crashes + (charged and not step.progressed)}
    events.record(
        session, "lease_ended", batch_id=held.batch_id, job_id=held.job_id, stage=held.stage.value, worker=held.worker
    )
    if cancelled:
        _cancel(session, held, lost, **_problem(code, message), **counts)
    elif counts["losses"] >= MAX_LOSSES or counts["crashes"] >= MAX_OTHER:
        lost_for_good = f"its workers were lost {counts['losses']} times"
        _give_up(session, held, lost, code=code, message=lost_for_good, **counts)
    else:
        _try_again(session, held, lost, **_problem(code, message), **counts)
    return True


# The way back


def return_to_waiting(session: Session, table: LeasedTable, step_ids: Sequence[int]) -> set[int]:
    """Return dispatched steps to waiting, wherever their messages are; return those that still were dispatched."""
    job_ids: list[str] = []
    if table is Step:
        job_ids = sorted(set(session.scalars(select(Step.job_id).where(Step.id.in_(step_ids)))))
    for job_id in job_ids:  # in one order: who cancels or finishes one waits for this, not in a circle
        jobs.lock(session, job_id)
    back = moving(table, StepState.WAITING, StepState.DISPATCHED).where(table.id.in_(step_ids))
    moved = set(session.connection().execute(back.returning(table_of(table).c.id)).scalars())
    for job_id in job_ids and session.scalars(select(Step.job_id).where(Step.id.in_(moved)).distinct()).all():
        jobs.move(session, job_id, JobState.WAITING)
    return moved
