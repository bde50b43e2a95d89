"""Recovers from lost messages and dead workers; the only code that ends leases.

Each function handles at most one page and is safe to run from any number of processes at once.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from db import events, workers
from db.clips import jobs
from db.models import Job, Step
from db.moves import LEASED
from db.queue import outcomes
from db.queue.leases import Held, held_of, live
from db.session import now_ms
from pipeline.policy.routes import encode_queue
from pipeline.states import Stage, StepState

_PAGE = 200


def _held(session: Session, steps: Select[Any]) -> list[Held]:
    return [held_of(step) for step in session.scalars(steps)]


def end_leases(session: Session, *, all_of_them: bool = False) -> int:
    """Return running steps whose lease is over to waiting; return how many there were.

    ``all_of_them`` is for a solo run that has just taken its home's lock: nobody else can hold a lease then, and a
    person ended that run or its machine did. That says nothing of the step: it is not charged.
    """
    count = 0
    for table in LEASED:
        still = () if all_of_them else (table.lease_until < now_ms(),)
        # Sorted here, for one order of locks: asked to sort, SQLite reads every step instead of the index.
        expired = _held(session, select(table).where(live(table, StepState.RUNNING), *still).limit(_PAGE))
        free = _lock_free_jobs(session, expired)
        for lost in sorted(expired, key=lambda attempt: (attempt.batch_id, attempt.step_id)):
            if lost.job_id is None or lost.job_id in free:
                outcomes.end_lease(session, lost, *still, charged=not all_of_them)
        count += len(expired)
    return count


def _lock_free_jobs(session: Session, attempts: Sequence[Held]) -> set[str]:
    """Lock those of the attempts' jobs that nobody else has locked; their ids.

    The others are left for the next time. Who holds one may wait for the batch's row, which is charged here: to wait
    for that job as well would be a circle.
    """
    ids = {attempt.job_id for attempt in attempts if attempt.job_id is not None}
    if not ids:
        return set()
    return set(session.scalars(select(Job.id).where(Job.id.in_(ids)).with_for_update(skip_locked=True)))


def dispatched_counts(session: Session, *, older_than_ms: int) -> dict[str, tuple[int, int]]:
    """(all, old) dispatched steps by queue; old ones were dispatched longer ago than ``older_than_ms``."""
    counts: dict[str, tuple[int, int]] = {}
    for table in LEASED:
        old = func.count().filter(table.dispatched_at < now_ms() - older_than_ms)
        dispatched = live(table, StepState.DISPATCHED)
        for queue, count, aged in session.execute(
            select(table.queue, func.count(), old).where(dispatched, table.queue.is_not(None)).group_by(table.queue)
        ):
            so_far = counts.get(queue or "", (0, 0))
            counts[queue or ""] = (so_far[0] + count, so_far[1] + aged)
    return counts


def redispatch(session: Session, queues: Sequence[str], *, older_than_ms: int) -> int:
    """Return dispatched steps of these queues whose messages seem lost to waiting; return how many there were.

    A message that was not lost after all finds nothing to claim, or claims what was dispatched again: both are right.
    """
    count = 0
    for table in LEASED:
        old = (table.queue.in_(queues), table.dispatched_at < now_ms() - older_than_ms)
        query = select(table).where(live(table, StepState.DISPATCHED), *old).order_by(table.id)
        lost = _held(session, query.limit(_PAGE))
        moved = outcomes.return_to_waiting(session, table, [step.step_id for step in lost])
        for step in lost:
            if step.step_id in moved:
                facts = {"batch_id": step.batch_id, "job_id": step.job_id, "stage": step.stage.value}
                events.record(session, "message_lost", **facts)
        count += len(moved)
    return count


def _unserved(session: Session, stage: Stage, gone_ms: int) -> Sequence[Step]:
    """Dispatched steps whose hand-off no live worker has been able to read for so long."""
    served = workers.served_handoffs(session)
    rows = session.scalars(
        select(Step)
        .where(
            live(Step, StepState.DISPATCHED),
            Step.stage == stage,
            Step.queue.startswith(encode_queue("")),
            Step.queue.not_in(served),
            Step.dispatched_at < now_ms() - gone_ms,
        )
        .limit(_PAGE)
    )
    return sorted(rows, key=lambda row: row.id)


def move_lost_scores(session: Session, *, gone_ms: int) -> int:
    """Return score steps to waiting whose hand-off's host is gone: their clips are in the store too, for any CPU."""
    rows = _unserved(session, Stage.SCORE, gone_ms)
    return len(outcomes.return_to_waiting(session, Step, [row.id for row in rows]))


def rewind_lost_handoffs(session: Session, *, gone_ms: int) -> int:
    """Rewind steps whose hand-off no live worker can read: their frames are made again. Return how many there were.

    A hand-off counts as gone when its step has been in the broker for ``gone_ms`` and none of its readers is alive.
    """
    rows = _unserved(session, Stage.ENCODE, gone_ms)
    free = _lock_free_jobs(session, [held_of(row) for row in rows])
    for lost in rows:
        if lost.job_id not in free:
            continue
        job = jobs.lock(session, lost.job_id)
        step = session.get(Step, lost.id, populate_existing=True)
        if step is not None and step.state is StepState.DISPATCHED and not job.cancel_requested:
            place = (step.job_id, step.batch_id, step.roll, step.segment)
            outcomes.rewind_steps(session, *place, Stage.GENERATE, f"no live worker reads {step.queue}")
    return len(rows)
