"""The right to work on a step: claimed, renewed, and looked at while it is held.

Each function is a short part of its caller's transaction around one conditional statement, and says by its result
whether the condition held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, and_, bindparam, exists, select, update
from sqlalchemy.orm import Session, aliased

from db.base import EnumText
from db.clips import checkpoints, continuations, memory_ladder, segments
from db.models import STEPS, Batch, Job, Queue, Step, Worker
from db.session import now_ms
from pipeline.outputs import StageOutputs
from pipeline.policy.memory_ladder import Rung
from pipeline.policy.routes import ALL_QUEUES
from pipeline.seeds import roll_seed
from pipeline.spec import BatchOptions, JobSpec
from pipeline.states import Stage, StepState
from pipeline.work import Claim, StepWork


@dataclass(frozen=True, slots=True)
class Control:
    """The answer to a running step that renews its lease."""

    held: bool
    """False when the lease is lost: stop, and record nothing."""
    cancel: bool = False
    pause: bool = False


def not_paused() -> ColumnElement[bool]:
    """Neither the step's batch nor its queue, one above it (``vgen.gpu``) or everything is paused."""
    over_it = Queue.name.in_([Step.queue, ALL_QUEUES]) | Step.queue.startswith(Queue.name + ".")
    return ~exists().where(over_it, Queue.paused) & ~exists().where(Batch.id == Step.batch_id, Batch.paused)


# The statements of the way that every step goes are built once, on tables rather than entities, and run on the
# session's connection: built anew and run as entities they cost a worker five times the time (bench/README.md).
_TAKE = (
    update(STEPS)
    .where(
        Step.job_id == bindparam("p_job_id"),
        Step.segment == bindparam("p_segment"),
        Step.stage == bindparam("p_stage", type_=EnumText(Stage)),
        Step.state == StepState.DISPATCHED,
        Step.queue.in_(bindparam("p_queues", expanding=True)),
        exists().where(Job.id == Step.job_id, Job.roll == Step.roll, ~Job.cancel_requested),
        not_paused(),
        # One whose GPU was found bad: what it had been sent before waits again.
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
    .returning(STEPS.c.id, STEPS.c.attempt, STEPS.c.roll, STEPS.c.queue, STEPS.c.memory_rung)
)

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

CURRENT = (
    (Step.id == bindparam("p_step_id")) & (Step.attempt == bindparam("p_attempt")) & (Step.state == StepState.RUNNING)
)
_PAUSED = (~not_paused()).label("paused")
_LOOK = select(Job.cancel_requested, _PAUSED).join(Step, Step.job_id == Job.id).where(CURRENT)
_RENEW = (
    update(STEPS)
    .where(CURRENT)
    .values(
        lease_until=now_ms() + bindparam("p_lease_ms", type_=BigInteger),
        progress_phase=bindparam("p_phase"),
        progress_step=bindparam("p_step"),
        progress_total=bindparam("p_total"),
    )
    .returning(select(Job.cancel_requested).where(Job.id == bindparam("p_job_id")).scalar_subquery(), _PAUSED)
)


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
    batch_id, line, stored_spec, options = rows[0][:4]
    spec = spec_of(stored_spec, roll)
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
        options=BatchOptions.model_validate(options),
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
    )
    return Claim(step_id, attempt, queue or "", worker, work)


def spec_of(stored: dict[str, Any], roll: int) -> JobSpec:
    """The job's specification with the seed of this roll."""
    spec = JobSpec.model_validate(stored)
    return spec if roll == 1 else spec.model_copy(update={"seed": roll_seed(spec.seed, roll)})


def outputs_of(rows: Sequence[Any]) -> StageOutputs:
    """Return what earlier stages recorded, in the rows of ``WORK``."""
    return StageOutputs.from_rows({done: output for *_, done, output in rows if done is not None})


def fence(claimed: Claim) -> dict[str, Any]:
    return {"p_step_id": claimed.step_id, "p_attempt": claimed.attempt}


def check_control(session: Session, claimed: Claim) -> Control:
    """Return what ``renew`` would, without extending the lease: a read, cheap enough for every second."""
    row = session.connection().execute(_LOOK, fence(claimed)).one_or_none()
    return Control(held=False) if row is None else Control(held=True, cancel=bool(row[0]), pause=bool(row[1]))


def renew(
    session: Session, claimed: Claim, *, lease_ms: int, phase: str | None = None, step: int = 0, total: int = 0
) -> Control:
    """Extend the lease, store progress, and learn whether to stop."""
    values = {
        "p_lease_ms": lease_ms,
        "p_phase": phase,
        "p_step": step,
        "p_total": total,
        "p_job_id": claimed.work.job_id,
    }
    row = session.connection().execute(_RENEW, {**fence(claimed), **values}).one_or_none()
    return Control(held=False) if row is None else Control(held=True, cancel=bool(row[0]), pause=bool(row[1]))
