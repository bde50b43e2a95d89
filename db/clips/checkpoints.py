"""Checkpoints of interrupted clips: one row for the newest state within a clip, one for its final latents.

Rows are written by the attempt that holds the step, and go when the job needs them no more. The objects they point at
are removed by whoever changed the row, and what is missed then by the sweeper: an object without a row is nobody's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sqlalchemy import Table, bindparam, delete, insert, select
from sqlalchemy.orm import Session

from db import events
from db.clips import jobs
from db.models import STEPS, Checkpoint
from db.session import now_ms
from pipeline.states import StepState
from pipeline.work import CheckpointRef, StepWork

if TYPE_CHECKING:
    from pipeline.work import Claim

# Every clip's final state is recorded: these statements are built once, as those of db.queue.leases.
_ROWS = cast(Table, Checkpoint.__table__)
_RECORD = insert(_ROWS).values(created_at=now_ms())
_HELD = select(STEPS.c.id).where(
    STEPS.c.id == bindparam("p_step_id"), STEPS.c.attempt == bindparam("p_attempt"), STEPS.c.state == StepState.RUNNING
)
_DROP = (
    delete(_ROWS)
    .where(
        _ROWS.c.job_id == bindparam("p_job_id"),
        _ROWS.c.roll == bindparam("p_roll"),
        _ROWS.c.segment == bindparam("p_segment"),
    )
    .returning(_ROWS.c.key)
)


def newest(session: Session, job_id: str, roll: int, segment: int) -> CheckpointRef | None:
    """The state that is furthest on; None when there is none."""
    row = session.scalars(
        select(Checkpoint)
        .where(Checkpoint.job_id == job_id, Checkpoint.roll == roll, Checkpoint.segment == segment)
        .order_by(Checkpoint.final.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else CheckpointRef(row.step, row.total, row.key, row.sha256, row.size, row.numerics)


def record(session: Session, claimed: Claim, saved: CheckpointRef) -> tuple[str, ...] | None:
    """Make this the segment's newest state; the keys of the objects that it replaces.

    None when the attempt no longer holds its step, or its job is to be cancelled: the object is nobody's then.
    """
    if not _held(session, claimed):
        return None
    work = claimed.work
    replaced = _drop(session, work)
    session.connection().execute(
        _RECORD,
        {
            "job_id": work.job_id,
            "roll": work.roll,
            "segment": work.segment,
            "final": saved.final,
            "attempt": claimed.attempt,
            "step": saved.step,
            "total": saved.total,
            "key": saved.key,
            "sha256": saved.sha256,
            "size": saved.size,
            "numerics": saved.numerics,
        },
    )
    events.record(
        session,
        "checkpoint",
        batch_id=work.batch_id,
        job_id=work.job_id,
        attempt=claimed.attempt,
        step=saved.step,
        total=saved.total,
        bytes=saved.size,
    )
    return tuple(key for key in replaced if key != saved.key)


def discard(session: Session, claimed: Claim, reason: str) -> tuple[str, ...]:
    """Forget the segment's states, which cannot be used; the keys of their objects. Nothing when the step is lost."""
    if not _held(session, claimed):
        return ()
    work = claimed.work
    dropped = _drop(session, work)
    events.record(
        session,
        "checkpoint_unusable",
        batch_id=work.batch_id,
        job_id=work.job_id,
        attempt=claimed.attempt,
        reason=reason[:500],
    )
    return dropped


def _held(session: Session, claimed: Claim) -> bool:
    """Return whether the attempt may still write. The job's row is locked first, as by all who end an attempt."""
    if jobs.lock_unless_cancelled(session, claimed.work.job_id):
        values = {"p_step_id": claimed.step_id, "p_attempt": claimed.attempt}
        return session.connection().execute(_HELD, values).one_or_none() is not None
    return False


def _drop(session: Session, work: StepWork) -> tuple[str, ...]:
    whose = {"p_job_id": work.job_id, "p_roll": work.roll, "p_segment": work.segment}
    return tuple(key for (key,) in session.connection().execute(_DROP, whose))
