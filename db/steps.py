"""Claim, renew, finish: every way in which a worker changes a step.

Each function is one short transaction of its caller, ends in one conditional UPDATE, and says by its result whether
the condition held. A job's state changes in the same transaction as its step's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from sqlalchemy import BigInteger, ColumnElement, Table, Update, and_, bindparam, exists, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.dml import ReturningInsert

from db import budgets, checkpoints, continuations, evals, events, jobs, memory, rolls, segments
from db.attempts import record_attempt
from db.base import EnumText, Json
from db.models import ALL_QUEUES, Batch, Job, Queue, StageRun, Step, Worker
from db.session import now_ms
from pipeline.errors import ConflictError, FailureClass, StageError
from pipeline.keys import roll_seed
from pipeline.memory import Rung
from pipeline.plan import need_of
from pipeline.retry import MAX_LOSSES, RetryDecision, decide
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
class Sent:
    """A step of the same job that was dispatched."""

    segment: int
    stage: Stage
    queue: str


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of a finish. ``recorded`` is False when the attempt was fenced."""

    recorded: bool
    next_stage: Stage | None = None
    queue: str | None = None
    """Where the next step was dispatched to; None: it waits for the dispatcher."""
    also: tuple[Sent, ...] = ()
    """Steps beside the next one that were dispatched, each for a chain of its own."""
    unneeded: tuple[str, ...] = ()
    """Keys of objects that no row points at any more: checkpoints of a job that has ended."""


Hop = Callable[[Session, StepWork, Stage, dict[str, Any]], str | None]
"""Given the finished work, the next stage and what was made: the next step's queue if that has room now, else None."""


def not_paused() -> ColumnElement[bool]:
    """Neither the step's batch nor its queue, one above it (``vgen.gpu``) or everything is paused."""
    over_it = Queue.name.in_([Step.queue, ALL_QUEUES]) | Step.queue.startswith(Queue.name + ".")
    return ~exists().where(over_it, Queue.paused) & ~exists().where(Batch.id == Step.batch_id, Batch.paused)


# The statements of the way that every step goes are built once, on tables rather than entities, and run on the
# session's connection: built anew and run as entities they cost a worker five times the time (bench/README.md).
_STEPS = cast(Table, Step.__table__)

_TAKE = (
    update(_STEPS)
    .where(
        Step.job_id == bindparam("p_job_id"),
        Step.segment == bindparam("p_segment"),
        Step.stage == bindparam("p_stage", type_=EnumText(Stage)),
        Step.state == StepState.DISPATCHED,
        Step.queue.in_(bindparam("p_queues", expanding=True)),
        exists().where(Job.id == Step.job_id, Job.roll == Step.roll, ~Job.cancel_requested),
        not_paused(),
        # One whose GPU was found bad: what it had been sent before goes back in line.
        ~exists().where(Worker.name == bindparam("p_worker"), Worker.drain_reason.is_not(None)),
    )
    .values(
        state=StepState.RUNNING,
        attempt=Step.attempt + 1,
        worker=bindparam("p_worker"),
        lease_until=now_ms() + bindparam("p_lease_ms", type_=BigInteger),
        started_at=now_ms(),
        progress_phase=None,
        progress_step=0,
        progress_total=0,
    )
    .returning(_STEPS.c.id, _STEPS.c.attempt, _STEPS.c.roll, _STEPS.c.queue, _STEPS.c.memory_rung)
)

_prior = aliased(Step)
_WORK = (
    select(Job.batch_id, Job.line, Job.spec, Batch.options, _prior.stage, _prior.output)
    .join(Batch, Batch.id == Job.batch_id)
    .outerjoin(
        _prior,
        and_(
            _prior.job_id == Job.id,
            _prior.roll == bindparam("p_roll"),
            # The prompts of a clip's segments are all decided with its first.
            (_prior.segment == bindparam("p_segment"))
            | (_prior.stage.in_(segments.OF_THE_CLIP) & (_prior.segment == 0)),
            _prior.state.in_((StepState.DONE, StepState.SKIPPED)),
        ),
    )
    .where(Job.id == bindparam("p_job_id"))
)

_CURRENT = (
    (Step.id == bindparam("p_step_id")) & (Step.attempt == bindparam("p_attempt")) & (Step.state == StepState.RUNNING)
)
_PAUSED = (~not_paused()).label("paused")
_LOOK = select(Job.cancel_requested, _PAUSED).join(Step, Step.job_id == Job.id).where(_CURRENT)
_RENEW = (
    update(_STEPS)
    .where(_CURRENT)
    .values(
        lease_until=now_ms() + bindparam("p_lease_ms", type_=BigInteger),
        progress_phase=bindparam("p_phase"),
        progress_step=bindparam("p_step"),
        progress_total=bindparam("p_total"),
    )
    .returning(select(Job.cancel_requested).where(Job.id == bindparam("p_job_id")).scalar_subquery(), _PAUSED)
)


def _ending(**values: Any) -> Update:
    """The conditional UPDATE that ends the current attempt."""
    return update(_STEPS).where(_CURRENT).values(lease_until=None, worker=None, **values).returning(_STEPS.c.started_at)


_DONE = _ending(
    state=bindparam("p_state", type_=EnumText(StepState)),
    finished_at=now_ms(),
    output=bindparam("p_output", type_=Json),
    error_code=None,
    error=None,
)
_LOCK = (
    select(Job.cancel_requested, Batch.paused, budgets.limited())
    .join(Batch, Batch.id == Job.batch_id)
    .where(Job.id == bindparam("p_job_id"))
    .with_for_update(of=Job)
)


def claim(
    session: Session, *, job_id: str, segment: int, stage: Stage, queues: Sequence[str], worker: str, lease_ms: int
) -> Claim | None:
    """Take a dispatched step. None when there is nothing to take: done, taken, cancelled, paused, another queue's.

    ``queues`` are those that the worker serves. A claim never takes over a lease, expired or not.
    """
    connection = session.connection()
    taken = connection.execute(
        _TAKE,
        {
            "p_job_id": job_id,
            "p_segment": segment,
            "p_stage": stage,
            "p_queues": list(queues),
            "p_worker": worker,
            "p_lease_ms": lease_ms,
        },
    ).one_or_none()
    if taken is None:
        return None
    step_id, attempt, roll, queue, rung = taken
    rows = connection.execute(_WORK, {"p_job_id": job_id, "p_roll": roll, "p_segment": segment}).all()
    batch_id, line, stored_spec, options = rows[0][:4]
    spec = _spec_of(stored_spec, roll)
    if stage is Stage.GENERATE and attempt == 1:
        rung = memory.at_start(session, step_id, queue or "", spec, batch_id=batch_id, job_id=job_id)
    work = StepWork(
        job_id=job_id,
        batch_id=batch_id,
        line=line,
        roll=roll,
        segment=segment,
        stage=stage,
        attempt=attempt,
        spec=spec,
        options=BatchOptions.model_validate(options),
        outputs={done.value: output or {} for *_, done, output in rows if done is not None},
        # A first attempt finds none.
        checkpoint=checkpoints.newest(session, job_id, roll, segment)
        if stage is Stage.GENERATE and attempt > 1
        else None,
        continuation=continuations.before(session, job_id, roll, segment)
        if stage is Stage.GENERATE and spec.continues(segment)
        else None,
        memory_rung=Rung(rung),
        earlier=segments.outputs(session, job_id, roll, before=segment)
        if stage is Stage.ENCODE and segment > 0 and segment == spec.segments - 1
        else (),
    )
    return Claim(step_id, attempt, queue or "", worker, work)


def _spec_of(stored: dict[str, Any], roll: int) -> JobSpec:
    """The job's specification with the seed of this roll."""
    spec = JobSpec.model_validate(stored)
    return spec if roll == 1 else spec.model_copy(update={"seed": roll_seed(spec.seed, roll)})


def _fence(claimed: Claim) -> dict[str, Any]:
    return {"p_step_id": claimed.step_id, "p_attempt": claimed.attempt}


def look(session: Session, claimed: Claim) -> Control:
    """What ``renew`` says, without extending the lease: a read, cheap enough for every second."""
    row = session.connection().execute(_LOOK, _fence(claimed)).one_or_none()
    return Control(held=False) if row is None else Control(held=True, cancel=bool(row[0]), pause=bool(row[1]))


def renew(
    session: Session, claimed: Claim, *, lease_ms: int, phase: str | None = None, step: int = 0, total: int = 0
) -> Control:
    """Extend the lease, store progress, and learn whether to stop."""
    told = {"p_lease_ms": lease_ms, "p_phase": phase, "p_step": step, "p_total": total, "p_job_id": claimed.work.job_id}
    row = session.connection().execute(_RENEW, {**_fence(claimed), **told}).one_or_none()
    return Control(held=False) if row is None else Control(held=True, cancel=bool(row[0]), pause=bool(row[1]))


def _end(
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
    started = connection.execute(ending, {**_fence(claimed), **(values or {})}).one_or_none()
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
        outcome=outcome,
        error_code=error_code,
        error=error,
    )
    return True


def _end_as(session: Session, claimed: Claim, outcome: AttemptOutcome, **values: Any) -> bool:
    """End an attempt in one of the rarer ways: ``values`` are the step's new columns."""
    problem = {name: values.get(name) for name in ("error_code", "error")}
    return _end(session, claimed, outcome, _ending(**values), **problem)


def _cancelled(session: Session, claimed: Claim) -> Finished:
    """End an attempt whose job was asked to stop, and the job with it."""
    recorded = _end_as(session, claimed, AttemptOutcome.CANCELLED, state=StepState.CANCELLED, finished_at=now_ms())
    if not recorded or segments.one_runs(session, claimed.work.job_id):  # then the last of them ends the job
        return Finished(recorded)
    return Finished(recorded, unneeded=jobs.conclude(session, claimed.work.job_id, JobState.CANCELLED))


def finish(session: Session, claimed: Claim, result: StageResult, *, hop: Hop | None = None) -> Finished:
    """Record what a stage made, and make the next step's row: dispatched where ``hop`` names a queue, else ``waiting``.

    Cancel wins over everything but a finished publish.
    """
    work = claimed.work
    cancelled, paused, limited = session.connection().execute(_LOCK, {"p_job_id": work.job_id}).one()
    if cancelled and work.stage is not Stage.PUBLISH:
        return _cancelled(session, claimed)
    if result.outcome is Outcome.REJECTED:
        return _reject(session, claimed, result)
    state = StepState.SKIPPED if result.outcome is Outcome.SKIPPED else StepState.DONE
    made = {"p_state": state, "p_output": result.output}
    if not _end(session, claimed, AttemptOutcome(result.outcome.value), _DONE, made):
        return Finished(recorded=False)
    if result.outcome is Outcome.BLOCKED:
        reason = str(result.output.get("reason", "the prompt was screened out"))
        jobs.conclude(session, work.job_id, JobState.BLOCKED, error_code="unsafe_prompt", error=reason)
        return Finished(recorded=True)
    if result.continuation is not None:
        continuations.record(session, work, result.continuation)
    if work.stage is Stage.GENERATE:
        segments.record(session, work, result.output)
        memory.note_made(session, claimed.queue, work.spec, work.memory_rung)
    evals.record(session, work.job_id, work.roll, result.scores)
    if segments.branches(work):
        not_now = {Stage.GENERATE: paused or limited, Stage.ENCODE: paused}
        return _finish_segment(session, work, result.output, hop, not_now)
    following = next_stage(work.stage, scored=work.options.score is not None)
    if following is None:
        unneeded = jobs.publish(session, work.job_id, work.roll, result.artifacts)
        return Finished(recorded=True, unneeded=unneeded + segments.clear(session, work))
    held = result.outcome is Outcome.HELD
    # Whether a budget allows one more clip is the dispatcher's to say, which sees all that is in flight.
    waits = held or paused or (limited and following is Stage.GENERATE)
    queue = None if waits or hop is None else hop(session, work, following, result.output)
    need = need_of(work.spec) if following is Stage.GENERATE else ""
    queue_step(session, work.job_id, work.batch_id, work.roll, work.segment, following, work.spec.priority, queue, need)
    if held:
        jobs.move(session, work.job_id, JobState.HELD)
        return Finished(recorded=True)
    if queue is None:
        jobs.move(session, work.job_id, JobState.WAITING)
    return Finished(recorded=True, next_stage=following, queue=queue)


def _reject(session: Session, claimed: Claim, result: StageResult) -> Finished:
    """Record a clip that the gate turned down: the job's next roll begins, or it fails. Its row is locked."""
    work, reason, code = claimed.work, str(result.output["reason"]), "gate_failed"
    more = work.options.score is not None and work.roll <= work.options.score.reroll
    problem: dict[str, Any] = {} if more else {"error_code": code, "error": reason[:4000]}
    ending = _ending(
        state=StepState.DONE if more else StepState.FAILED, finished_at=now_ms(), output=result.output, **problem
    )
    if not _end(session, claimed, AttemptOutcome.REJECTED, ending, error_code=code, error=reason[:4000]):
        return Finished(recorded=False)
    evals.record(session, work.job_id, work.roll, result.scores)
    if not more:
        message = f"roll {work.roll} was rejected and is the last: {reason}"
        jobs.conclude(session, work.job_id, JobState.FAILED, error_code=code, error=message)
        return Finished(recorded=True)
    unneeded = rolls.begin_next(session, work.job_id, reason=reason)
    jobs.move(session, work.job_id, JobState.WAITING)
    return Finished(recorded=True, next_stage=Stage.GENERATE, unneeded=unneeded)


def _finish_segment(
    session: Session, work: StepWork, made: dict[str, Any], hop: Hop | None, waits: dict[Stage, bool]
) -> Finished:
    """Go on after a stage that is not a clip's last word: encode this segment while the next one is generated."""
    queue: str | None = None
    also: tuple[Sent, ...] = ()

    def send(segment: int, stage: Stage) -> str | None:
        sent = None if waits[stage] or hop is None else hop(session, work, stage, made)
        need = need_of(work.spec) if stage is Stage.GENERATE else ""
        queue_step(session, work.job_id, work.batch_id, work.roll, segment, stage, work.spec.priority, sent, need)
        return sent

    if work.stage is Stage.GENERATE:
        if segments.may_encode(session, work):
            queue = send(work.segment, Stage.ENCODE)
        else:
            segments.add_pending(session, work, Stage.ENCODE)
        if segments.next_is_due(session, work):
            sent = send(work.segment + 1, Stage.GENERATE)
            also = (Sent(work.segment + 1, Stage.GENERATE, sent),) if sent is not None else ()
    else:
        segments.unblock(session, work.job_id, work.roll)
    jobs.move(session, work.job_id, JobState.WAITING)
    return Finished(True, next_stage=None if queue is None else Stage.ENCODE, queue=queue, also=also)


def queue_step(
    session: Session,
    job_id: str,
    batch_id: str,
    roll: int,
    segment: int,
    stage: Stage,
    priority: int,
    queue: str | None = None,
    need: str = "",
) -> None:
    """Make the next step ``dispatched`` to the queue, or ``waiting``: a new row, or the one that a rewind left.

    ``need`` is what a step that generates needs of a GPU.

    Raises:
        ConflictError: the step is there and was not rewound.
    """
    connection = session.connection()
    made = connection.execute(
        _queueing(connection.dialect.name, dispatched=queue is not None),
        {
            "job_id": job_id,
            "batch_id": batch_id,
            "roll": roll,
            "segment": segment,
            "stage": stage,
            "priority": priority,
            "queue": queue,
            "need": need,
        },
    ).one_or_none()
    if made is None:
        raise ConflictError(f"job {job_id}: its {stage.value} step is there and is not pending")


@lru_cache(maxsize=4)
def _queueing(dialect: str, *, dispatched: bool) -> ReturningInsert[tuple[int]]:
    state = StepState.DISPATCHED if dispatched else StepState.WAITING
    at = {"dispatched_at": now_ms()} if dispatched else {}
    new = _insert(dialect, _STEPS).values(state=state, **at)
    return new.on_conflict_do_update(
        index_elements=["job_id", "roll", "segment", "stage"],
        set_={"state": state, "queue": new.excluded.queue, "need": new.excluded.need, **at},
        where=Step.state == StepState.PENDING,
    ).returning(_STEPS.c.id)


def _insert(dialect: str, table: Table) -> postgresql.Insert | sqlite.Insert:
    """The INSERT that can say what to do about a row that is there already."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


CRASH_CODES = ("generator_crashed", "generator_hung")
"""Codes of ``CrashError``, as attempts' rows have them."""
_COUNTERS = {FailureClass.RETRYABLE: "errors", FailureClass.CRASH: "crashes"}
"""Which of a step's counters bounds the tries after a failure; ``faults`` those of the other classes."""


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
        return _cancelled(session, claimed)
    if work.stage is Stage.GENERATE and error.failure_class is FailureClass.OUT_OF_MEMORY:
        following = memory.after_failure(session, claimed.step_id, claimed.queue, work.spec, str(error))
        if following is not None:
            return _try_differently(session, claimed, following, problem)
        decision = RetryDecision(again=False)
    if not decision.again:
        recorded = _end_as(
            session, claimed, AttemptOutcome.FAILED, state=StepState.FAILED, finished_at=now_ms(), **problem
        )
        if recorded:
            segments.set_aside(session, work.job_id)
            jobs.conclude(
                session, work.job_id, JobState.FAILED, error_code=error.code, error=f"{work.stage.value}: {error}"
            )
        return Finished(recorded)
    recorded = _end_as(
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


def _try_differently(session: Session, claimed: Claim, following: memory.NextTry, problem: dict[str, Any]) -> Finished:
    """Put a clip that did not fit back in line, at once and in another way; charged to none of its tries."""
    columns = {name: problem[name] for name in ("error_code", "error")} | following.columns
    recorded = _end_as(session, claimed, AttemptOutcome.RETRIED, state=StepState.WAITING, queue=None, **columns)
    if recorded:
        work = claimed.work
        events.record(session, "memory_rung", batch_id=work.batch_id, job_id=work.job_id, **following.said)
        jobs.move(session, work.job_id, JobState.WAITING)
    return Finished(recorded)


def _worker_is_sound(session: Session, claimed: Claim) -> bool:
    """Whether the step crashed on this worker before, and another job's on the same queue succeeded there since."""
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


def release(session: Session, claimed: Claim, *, delay_ms: int = 0) -> Finished:
    """Give a step back unfinished (drain, pause, cancel, back-pressure): no failed attempt."""
    work = claimed.work
    if jobs.lock(session, work.job_id).cancel_requested:
        return _cancelled(session, claimed)
    recorded = _end_as(
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


def rewind(session: Session, claimed: Claim, *, to: Stage, reason: str, segment: int | None = None) -> Finished:
    """Have an earlier step done again, because what it left behind is gone. Charged to no budget of that step.

    ``segment`` is that step's, where it is not the same one's.

    The step itself counts the rewind as a loss, so that a line whose frames vanish every time comes to an end.
    """
    work = claimed.work
    if jobs.lock(session, work.job_id).cancel_requested:
        return _cancelled(session, claimed)
    losses = session.scalars(select(Step.losses).where(Step.id == claimed.step_id)).one() + 1
    if losses >= MAX_LOSSES:
        return fail_for_good(session, claimed, code="rewound_too_often", message=f"{losses} rewinds; last: {reason}")
    recorded = _end_as(
        session,
        claimed,
        AttemptOutcome.REWOUND,
        state=StepState.PENDING,
        queue=None,
        losses=losses,
        error=reason[:4000],
    )
    if recorded:
        again = work.segment if segment is None else segment
        rewind_steps(session, work.job_id, work.batch_id, work.roll, again, to, reason)
    return Finished(recorded)


def fail_for_good(session: Session, claimed: Claim, *, code: str, message: str) -> Finished:
    """The job fails with this error, whatever tries are left."""
    jobs.lock(session, claimed.work.job_id)
    recorded = _end_as(
        session,
        claimed,
        AttemptOutcome.FAILED,
        state=StepState.FAILED,
        finished_at=now_ms(),
        error_code=code,
        error=message[:4000],
    )
    if recorded:
        segments.set_aside(session, claimed.work.job_id)
        jobs.conclude(session, claimed.work.job_id, JobState.FAILED, error_code=code, error=message)
    return Finished(recorded)


def rewind_steps(session: Session, job_id: str, batch_id: str, roll: int, segment: int, to: Stage, reason: str) -> None:
    """Set the step ``to`` waiting again, and those after it pending. The job's row is locked by the caller."""
    order = list(Stage)
    after = order[order.index(to) + 1 :]
    mine = (Step.job_id == job_id) & (Step.roll == roll) & (Step.segment == segment)
    segments.set_aside(session, job_id, mine, Step.stage.in_(after), Step.state == StepState.RUNNING)
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


def take_back(session: Session, step_id: int, job_id: str) -> bool:
    """Put a dispatched step back in line, wherever its message may be. False when it is dispatched no longer."""
    jobs.lock(session, job_id)
    moved = session.execute(
        update(Step)
        .where(Step.id == step_id, Step.state == StepState.DISPATCHED)
        .values(state=StepState.WAITING, queue=None)
        .returning(Step.id)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if moved is not None:
        jobs.move(session, job_id, JobState.WAITING)
    return moved is not None
