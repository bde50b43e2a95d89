"""Leases: how a step is claimed, renewed, and checked for a stop while it runs.

Each function is a short part of its caller's transaction around one conditional statement, and says by its result
whether the condition held.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    SQLColumnExpression,
    String,
    Update,
    and_,
    bindparam,
    exists,
    literal,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.dml import ReturningUpdate

from db.base import EnumText
from db.clips import checkpoints, continuations, memory_ladder, segments
from db.models import STEPS, Batch, Job, Queue, Reservation, ScoreStep, Step, Worker
from db.moves import LeasedTable, moving, table_of
from db.session import now_ms
from db.sessions import joined
from pipeline.outputs import StageOutputs
from pipeline.policy.memory_ladder import Rung
from pipeline.policy.routes import ALL_QUEUES
from pipeline.seeds import roll_seed
from pipeline.spec import BatchOptions, JobSpec
from pipeline.states import Stage, StepState
from pipeline.work import AnyClaim, Claim, JoinedClip, StepWork

_PROGRESS = ("progress_phase", "progress_step", "progress_total")


@dataclass(frozen=True, slots=True)
class Control:
    """The answer to a running step that renews its lease."""

    held: bool
    """False when the lease is lost: stop, and record nothing."""
    cancel: bool = False
    pause: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """An attempt that holds a step of any leased table."""

    table: LeasedTable
    step_id: int
    attempt: int
    queue: str | None
    worker: str | None
    batch_id: str
    job_id: str | None
    """None for a step of an evaluation run: it belongs to no one job."""
    stage: Stage
    overlapped_ms: int = 0
    """See ``Claim``."""
    resumed: bool = False
    """Whether it went on from a checkpoint."""

    @property
    def fence(self) -> dict[str, Any]:
        """The parameters of ``current``."""
        return {"p_step_id": self.step_id, "p_attempt": self.attempt}


def held_by(claimed: AnyClaim) -> Held:
    """The attempt that a worker claimed."""
    facts = (claimed.step_id, claimed.attempt, claimed.queue, claimed.worker, claimed.work.batch_id)
    if isinstance(claimed, Claim):
        work = claimed.work
        return Held(Step, *facts, work.job_id, work.stage, claimed.overlapped_ms, work.checkpoint is not None)
    return Held(ScoreStep, *facts, None, Stage.SCORE)


def held_of(row: Step | ScoreStep) -> Held:
    """The attempt that holds the step of a row."""
    facts = (row.id, row.attempt, row.queue, row.worker, row.batch_id)
    if isinstance(row, Step):
        return Held(Step, *facts, row.job_id, row.stage)
    return Held(ScoreStep, *facts, None, Stage.SCORE)


def live(table: LeasedTable, state: StepState | None = None) -> ColumnElement[bool]:
    """The step is dispatched or runs, or is in one of the two states: as the index on such steps has it.

    SQLite uses a partial index only where its own condition is written out.
    """
    either = text(f"{table.__tablename__}.state IN ('dispatched', 'running')")
    return and_(either) if state is None else and_(table.state == state, either)


def not_paused(
    queue: SQLColumnExpression[Any] = Step.queue, batch_id: SQLColumnExpression[Any] = Step.batch_id
) -> ColumnElement[bool]:
    """Neither the batch nor the queue, one above it (``vgen.gpu``) or everything is paused: by default the step's."""
    over_it = Queue.name.in_([queue, ALL_QUEUES]) | queue.startswith(Queue.name + ".")
    return ~exists().where(over_it, Queue.paused) & ~exists().where(Batch.id == batch_id, Batch.paused)


# By names that steps have not: in what an UPDATE returns, SQLite's columns stand without their tables.
_RESERVED = (
    select(Reservation.worker.label("reserved_worker"), Reservation.queue.label("reserved_queue"))
    .where(Reservation.ended_at.is_(None))
    .subquery("reserved")
)


def _reserved_for_others(table: LeasedTable, worker: SQLColumnExpression[Any]) -> ColumnElement[bool]:
    """The worker is reserved for a session, and the step is not in that session's queue."""
    return exists().where(_RESERVED.c.reserved_worker == worker, _RESERVED.c.reserved_queue != table.queue)


def _reserved_for_it(table: LeasedTable, worker: SQLColumnExpression[Any]) -> ColumnElement[bool]:
    """The worker is reserved for the session in whose queue the step is."""
    return exists().where(_RESERVED.c.reserved_worker == worker, _RESERVED.c.reserved_queue == table.queue)


def current(table: LeasedTable) -> ColumnElement[bool]:
    """The attempt with this number holds the step."""
    return (
        (table.id == bindparam("p_step_id"))
        & (table.attempt == bindparam("p_attempt"))
        & (table.state == StepState.RUNNING)
    )


def _asked_to_stop(table: LeasedTable) -> ColumnElement[bool]:
    """Of a job's step: the job is. One of an evaluation run is cancelled with its lease."""
    if table is ScoreStep:
        return literal(False)
    return select(Job.cancel_requested).where(Job.id == Step.job_id).correlate(Step).scalar_subquery()


# The statements of the way that every step goes are built once, on tables rather than entities, and run on the
# session's connection: built anew and run as entities they cost a worker five times the time (bench/README.md).


def taking(table: LeasedTable, *which: ColumnElement[bool], **started: Any) -> Update:
    """The conditional UPDATE that claims a dispatched step; ``started`` are columns that begin anew."""
    worker = bindparam("p_worker", type_=String)
    return (
        moving(table, StepState.RUNNING, StepState.DISPATCHED)
        .where(
            *which,
            or_(table.queue.in_(bindparam("p_queues", expanding=True)), _reserved_for_it(table, worker)),
            ~_reserved_for_others(table, worker),
            not_paused(table.queue, table.batch_id),
            # One whose GPU was found bad: what it had been sent before waits again.
            ~exists().where(Worker.name == bindparam("p_worker"), Worker.drain_reason.is_not(None)),
        )
        .values(
            attempt=table.attempt + 1,
            worker=bindparam("p_worker"),
            lease_until=now_ms() + bindparam("p_lease_ms", type_=BigInteger),
            **started,
        )
    )


_TAKE = taking(
    Step,
    Step.job_id == bindparam("p_job_id"),
    Step.segment == bindparam("p_segment"),
    Step.stage == bindparam("p_stage", type_=EnumText(Stage)),
    exists().where(Job.id == Step.job_id, Job.roll == Step.roll, ~Job.cancel_requested),
    progress_phase=None,
    progress_step=0,
    progress_total=0,
).returning(STEPS.c.id, STEPS.c.attempt, STEPS.c.roll, STEPS.c.queue, STEPS.c.memory_rung)

_prior = aliased(Step)
WORK = (
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


def _to_be_given_back(table: LeasedTable) -> ColumnElement[bool]:
    """The step is paused, or its worker is reserved for a session now: what it has done is kept, and it waits again."""
    return or_(~not_paused(table.queue, table.batch_id), _reserved_for_others(table, table.worker))


@cache
def _checking(table: LeasedTable) -> Select[bool, bool]:
    return select(_asked_to_stop(table), _to_be_given_back(table)).where(current(table))


@cache
def _renewing(table: LeasedTable) -> ReturningUpdate[bool, bool]:
    progress: dict[str, Any] = {name: bindparam(f"p_{name}") for name in _PROGRESS} if table is Step else {}
    lease_until = now_ms() + bindparam("p_lease_ms", type_=BigInteger)
    renewal = update(table_of(table)).where(current(table)).values(lease_until=lease_until, **progress)
    return renewal.returning(_asked_to_stop(table), _to_be_given_back(table))


def claim(
    session: Session, *, job_id: str, segment: int, stage: Stage, queues: Sequence[str], worker: str, lease_ms: int
) -> Claim | None:
    """Take a dispatched step. None when there is nothing to take: done, taken, cancelled, paused, another queue's.

    ``queues`` are those that the worker serves. A claim never takes over a lease, expired or not.
    """
    connection = session.connection()
    row = connection.execute(
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
    if row is None:
        return None
    step_id, attempt, roll, queue, rung = row
    rows = connection.execute(WORK, {"p_job_id": job_id, "p_roll": roll, "p_segment": segment}).all()
    batch_id, line, stored_spec, stored_options = rows[0][:4]
    spec, options = spec_of(stored_spec, roll), BatchOptions.model_validate(stored_options)
    if stage is Stage.GENERATE and attempt == 1:
        rung = memory_ladder.at_start(session, step_id, queue or "", spec, batch_id=batch_id, job_id=job_id)
    work = StepWork(
        job_id=job_id,
        batch_id=batch_id,
        line=line,
        roll=roll,
        segment=segment,
        stage=stage,
        attempt=attempt,
        spec=spec,
        options=options,
        outputs=outputs_of(rows),
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
        joins=_joins(session, batch_id, job_id, stage, options),
    )
    return Claim(step_id, attempt, queue or "", worker, work)


def _joins(session: Session, batch_id: str, job_id: str, stage: Stage, options: BatchOptions) -> tuple[JoinedClip, ...]:
    """The clips that the job joins, where it is the last of a session."""
    if options.session is None or stage not in (Stage.ENCODE, Stage.PUBLISH) or not joined.is_joined(session, job_id):
        return ()
    return joined.clips(session, batch_id, before=job_id)


def spec_of(stored: dict[str, Any], roll: int) -> JobSpec:
    """The job's specification with the seed of this roll."""
    spec = JobSpec.model_validate(stored)
    return spec if roll == 1 else spec.model_copy(update={"seed": roll_seed(spec.seed, roll)})


def outputs_of(rows: Sequence[Any]) -> StageOutputs:
    """Return what earlier stages recorded, in the rows of ``WORK``."""
    return StageOutputs.from_rows({done: output for *_, done, output in rows if done is not None})


def check_control(session: Session, claimed: AnyClaim) -> Control:
    """Return what ``renew`` would, without extending the lease: a read, cheap enough for every second."""
    held = held_by(claimed)
    return _control(session.connection().execute(_checking(held.table), held.fence).one_or_none())


def renew(
    session: Session, claimed: AnyClaim, *, lease_ms: int, phase: str | None = None, step: int = 0, total: int = 0
) -> Control:
    """Extend the lease, store progress where the table has it, and learn whether to stop."""
    held = held_by(claimed)
    values = {**held.fence, "p_lease_ms": lease_ms}
    if held.table is Step:
        values |= {"p_progress_phase": phase, "p_progress_step": step, "p_progress_total": total}
    return _control(session.connection().execute(_renewing(held.table), values).one_or_none())


def _control(row: Any) -> Control:
    return Control(held=False) if row is None else Control(held=True, cancel=bool(row[0]), pause=bool(row[1]))
