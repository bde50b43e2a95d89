"""The steps of evaluation runs: planned with the run, dispatched within the window, and put right by the reconciler.

Every change of a step is one conditional UPDATE, as of jobs' steps; ``db.evals.score_leases`` has those of its worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from sqlalchemy import ColumnElement, exists, func, insert, select, true, update
from sqlalchemy.orm import Session

from db import events, workers
from db.models import Batch, EvalRun, Job, ScoreStep
from db.queue.pauses import is_paused, paused_queues
from db.scheduling.capacity import in_flight as steps_in_flight
from db.session import now_ms
from pipeline.policy.retry import MAX_LOSSES, MAX_OTHER
from pipeline.policy.routes import CPU_QUEUE, NO_MODEL, ScorePart, gpu_queue, gpu_type_of, preset_slug_of
from pipeline.states import TERMINAL_JOB_STATES, JobState, StepState

OPEN = (StepState.PENDING, StepState.WAITING, StepState.DISPATCHED, StepState.RUNNING)
_LIVE = (StepState.DISPATCHED, StepState.RUNNING)
_PAGE = 200
_A_SLOT = 2
"""Score steps in flight for each live slot of a GPU type: one that runs and one that waits."""


@dataclass(frozen=True, slots=True)
class ScoreMessage:
    """A step to publish a message for."""

    step_id: int
    queue: str


def plan(session: Session, run_id: str, batch_id: str, parts: Sequence[ScorePart]) -> None:
    """Make the rows of a new run, in the order in which they are to be scored."""
    rows = [
        {
            "run_id": run_id,
            "batch_id": batch_id,
            "family": part.family,
            "first_seq": part.first_seq,
            "last_seq": part.last_seq,
            "state": StepState.PENDING,
        }
        for part in parts
    ]
    if rows:
        session.execute(insert(ScoreStep), rows)


def _of_slice() -> ColumnElement[bool]:
    return (Job.batch_id == ScoreStep.batch_id) & Job.seq.between(ScoreStep.first_seq, ScoreStep.last_seq)


def _some_clip() -> ColumnElement[bool]:
    return exists().where(_of_slice(), Job.state == JobState.SUCCEEDED)


def promote_ready(session: Session) -> int:
    """Make steps wait whose jobs have all ended; return how many. Without a clip there is nothing to do."""
    count = 0
    still_open = exists().where(_of_slice(), Job.state.not_in(TERMINAL_JOB_STATES))
    some_clip = _some_clip()
    for run_id in session.scalars(
        select(ScoreStep.run_id).where(ScoreStep.state == StepState.PENDING).distinct().order_by(ScoreStep.run_id)
    ).all():
        # Jobs end about in their order: what lies far behind has its turn.
        first = (
            select(ScoreStep.id)
            .where(ScoreStep.state == StepState.PENDING, ScoreStep.run_id == run_id)
            .order_by(ScoreStep.id)
            .limit(_PAGE)
        )
        is_ready = (ScoreStep.state == StepState.PENDING) & ScoreStep.id.in_(first.scalar_subquery()) & ~still_open
        for condition, values in (
            (some_clip, {"state": StepState.WAITING}),
            (~some_clip, {"state": StepState.CANCELLED, "finished_at": now_ms()}),
        ):
            moved = session.execute(
                update(ScoreStep)
                .where(is_ready, condition)
                .values(**values)
                .returning(ScoreStep.id)
                .execution_options(synchronize_session=False)
            )
            count += len(moved.all())
    return count


def dispatch_waiting(session: Session, *, window: int, gpu: bool) -> list[ScoreMessage]:
    """Dispatch waiting steps while their queues have room; runs take turns.

    ``gpu`` sends those that need a model to a GPU type with a live worker, where there is one; a step that failed there
    for a fault of its own, such as too little memory, goes to the CPU queue.
    """
    promote_ready(session)
    lines = _waiting(session)
    if not lines:
        return []
    paused, rooms = paused_queues(session), _rooms(session, window, gpu=gpu)
    gpus = [queue for queue in rooms if queue != CPU_QUEUE]
    bound: dict[str, list[int]] = {}
    for step in (step for one_round in zip_longest(*lines) for step in one_round if step is not None):
        wanted = gpus if gpus and step.family != NO_MODEL and not step.faults else [CPU_QUEUE]
        open_ = [queue for queue in wanted if rooms[queue] > 0 and not is_paused(queue, paused)]
        if open_:
            queue = max(open_, key=lambda name: rooms[name])
            rooms[queue] -= 1
            bound.setdefault(queue, []).append(step.id)
    messages = []
    for queue, ids in bound.items():
        moved = session.execute(
            update(ScoreStep)
            .where(ScoreStep.id.in_(ids), ScoreStep.state == StepState.WAITING)
            .values(state=StepState.DISPATCHED, queue=queue, dispatched_at=now_ms())
            .returning(ScoreStep.id)
            .execution_options(synchronize_session=False)
        )
        messages += [ScoreMessage(step_id, queue) for step_id in sorted(moved.scalars())]
    return messages


def _waiting(session: Session) -> list[Sequence[ScoreStep]]:
    """The first waiting steps of each run, oldest run first."""
    ready = (ScoreStep.state == StepState.WAITING) & (ScoreStep.not_before <= now_ms())
    runs = session.scalars(
        select(ScoreStep.run_id)
        .join(Batch, Batch.id == ScoreStep.batch_id)
        .where(ready, ~Batch.paused)
        .distinct()
        .order_by(ScoreStep.run_id)
    ).all()
    return [
        session.scalars(
            select(ScoreStep)
            .where(ready, ScoreStep.run_id == run_id)
            .order_by(ScoreStep.id)
            .limit(_PAGE)
            .with_for_update(skip_locked=True)
        ).all()
        for run_id in runs
    ]


def _rooms(session: Session, window: int, *, gpu: bool) -> dict[str, int]:
    """Return how many more steps each queue may hold: the window of the CPU queue is shared with the line's steps."""
    live = in_flight(session)
    rooms = {CPU_QUEUE: window - live.get(CPU_QUEUE, 0) - steps_in_flight(session).get(CPU_QUEUE, 0)}
    if gpu:
        for queue, slots in workers.capacity(session).slots.items():
            if (gpu_type := gpu_type_of(queue)) is not None and preset_slug_of(queue) is None:
                rooms[gpu_queue(gpu_type)] = _A_SLOT * slots - live.get(queue, 0)
    return rooms


def in_flight(session: Session) -> dict[str, int]:
    """Steps dispatched or running, by queue."""
    rows = session.execute(
        select(ScoreStep.queue, func.count()).where(ScoreStep.state.in_(_LIVE)).group_by(ScoreStep.queue)
    )
    return {queue: count for queue, count in rows if queue is not None}


def return_to_waiting(session: Session, step_ids: Sequence[int]) -> int:
    """Return dispatched steps to waiting, wherever their messages are; return how many were still dispatched."""
    moved = session.execute(
        update(ScoreStep)
        .where(ScoreStep.id.in_(step_ids), ScoreStep.state == StepState.DISPATCHED)
        .values(state=StepState.WAITING, queue=None)
        .returning(ScoreStep.id)
        .execution_options(synchronize_session=False)
    )
    return len(moved.all())


def dispatched_counts(session: Session, *, older_than_ms: int) -> dict[str, tuple[int, int]]:
    """(all, old) dispatched steps by queue, as ``reconciliation.dispatched_counts``."""
    old = func.count().filter(ScoreStep.dispatched_at < now_ms() - older_than_ms)
    rows = session.execute(
        select(ScoreStep.queue, func.count(), old)
        .where(ScoreStep.state == StepState.DISPATCHED)
        .group_by(ScoreStep.queue)
    )
    return {queue: (count, aged) for queue, count, aged in rows if queue is not None}


def redispatch(session: Session, queues: Sequence[str], *, older_than_ms: int) -> int:
    """Return steps to waiting whose messages seem lost; return how many there were."""
    ids = session.scalars(
        select(ScoreStep.id)
        .where(
            ScoreStep.state == StepState.DISPATCHED,
            ScoreStep.queue.in_(queues),
            ScoreStep.dispatched_at < now_ms() - older_than_ms,
        )
        .order_by(ScoreStep.id)
        .limit(_PAGE)
    ).all()
    return return_to_waiting(session, ids)


def withdraw(session: Session) -> int:
    """Return dispatched steps that are paused to waiting, as ``pauses.withdraw`` does with the line's."""
    paused = paused_queues(session)
    rows = session.execute(
        select(ScoreStep.id, ScoreStep.queue, Batch.paused)
        .join(Batch, Batch.id == ScoreStep.batch_id)
        .where(ScoreStep.state == StepState.DISPATCHED)
    ).all()
    return return_to_waiting(session, [row.id for row in rows if row.paused or is_paused(row.queue or "", paused)])


def end_leases(session: Session, *, all_of_them: bool = False) -> int:
    """Return running steps whose lease is over to waiting, or fail those that lost too many; return how many.

    ``all_of_them`` as of ``recovery.end_leases``.
    """
    over: ColumnElement[bool] = true() if all_of_them else ScoreStep.lease_until < now_ms()
    steps = session.scalars(
        select(ScoreStep)
        .where(ScoreStep.state == StepState.RUNNING, over)
        .order_by(ScoreStep.id)
        .limit(_PAGE)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    ).all()
    for step in steps:
        worker, step.worker, step.lease_until = step.worker, None, None
        if not all_of_them:
            step.losses += 1
            step.crashes += 1 if step.scored == 0 else 0
        lost = step.losses >= MAX_LOSSES or step.crashes >= MAX_OTHER
        if lost:
            step.state, step.error_code = StepState.FAILED, "worker_lost"
            step.error = f"its workers were lost {step.losses} times"
            step.finished_at = session.scalars(select(now_ms())).one()
        else:
            step.state, step.queue = StepState.WAITING, None
        session.flush()
        details: dict[str, Any] = {"run": step.run_id, "family": step.family, "attempt": step.attempt, "worker": worker}
        events.record(session, "score_lease_ended", batch_id=step.batch_id, failed=lost, **details)
    return len(steps)


def cancel(session: Session, batch_id: str) -> int:
    """End the open steps of a batch's runs; how many. A worker that holds one is fenced: it stops at its next poll."""
    ended = session.execute(
        update(ScoreStep)
        .where(ScoreStep.batch_id == batch_id, ScoreStep.state.in_(OPEN))
        .values(state=StepState.CANCELLED, finished_at=now_ms(), lease_until=None, worker=None)
        .returning(ScoreStep.id)
        .execution_options(synchronize_session=False)
    )
    count = len(ended.all())
    if count:
        events.record(session, "scoring_cancelled", batch_id=batch_id, steps=count)
    return count


def left(session: Session, batch_ids: Sequence[str] | None = None) -> dict[str, int]:
    """Open steps by batch, of these batches or of all; those of paused batches are left out."""
    query = select(ScoreStep.batch_id, func.count()).join(Batch, Batch.id == ScoreStep.batch_id)
    query = query.where(ScoreStep.state.in_(OPEN), ~Batch.paused).group_by(ScoreStep.batch_id)
    if batch_ids is not None:
        query = query.where(ScoreStep.batch_id.in_(batch_ids))
    return {row[0]: row[1] for row in session.execute(query)}


def progress(session: Session, run_id: str) -> dict[str, dict[str, int]]:
    """Steps of a run by family, then by state."""
    rows = session.execute(
        select(ScoreStep.family, ScoreStep.state, func.count())
        .where(ScoreStep.run_id == run_id)
        .group_by(ScoreStep.family, ScoreStep.state)
        .order_by(ScoreStep.family, ScoreStep.state)
    )
    by_run: dict[str, dict[str, int]] = {}
    for family, state, count in rows:
        by_run.setdefault(family, {})[state.value] = count
    return by_run


def unfinished_of(run: type[EvalRun]) -> ColumnElement[bool]:
    """A condition: the run of the enclosing query has steps that are still to be done."""
    return exists().where(ScoreStep.run_id == run.id, ScoreStep.state.in_(OPEN))


def outcome(session: Session, run_id: str) -> tuple[int, int]:
    """Count a run's (steps that failed, or were cancelled although they had a clip; clips that could not be read)."""
    cancelled = (ScoreStep.state == StepState.CANCELLED) & _some_clip()
    bad = func.count().filter((ScoreStep.state == StepState.FAILED) | cancelled)
    # Every family meets the same unreadable clips.
    unread = (
        select(func.max(ScoreStep.unread).label("clips"))
        .where(ScoreStep.run_id == run_id)
        .group_by(ScoreStep.first_seq)
        .subquery()
    )
    failed = session.scalars(select(bad).where(ScoreStep.run_id == run_id)).one()
    return failed, session.scalars(select(func.coalesce(func.sum(unread.c.clips), 0))).one()
