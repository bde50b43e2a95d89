"""What is particular to the steps of evaluation runs: they are created with their clips, and run on CPUs or GPUs.

They are leased, ended, recovered and paused as jobs' steps are, by ``db.queue``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from sqlalchemy import ColumnElement, bindparam, exists, func, select, update
from sqlalchemy.orm import Session

from db import events, workers
from db.clips import scores
from db.evals import clips
from db.evals.clips import REFERENCE
from db.models import Batch, EvalRun, Job, ScoreStep
from db.moves import moving, table_of
from db.queue.leases import current, held_by, held_of, taking
from db.queue.outcomes import Finished, end, ending, fenced
from db.queue.pauses import is_paused, paused_queues
from db.scheduling.capacity import in_flight
from db.scheduling.dispatch import is_alone, mark_dispatched
from db.session import now_ms
from pipeline.policy.routes import CPU_QUEUE, NO_MODEL, gpu_queue, gpu_type_of, preset_slug_of
from pipeline.states import TERMINAL_JOB_STATES, AttemptOutcome, JobState, StepState
from pipeline.work import ScoreClaim, ScoreRecord, ScoreWork, StoredClip

OPEN = (StepState.PENDING, StepState.WAITING, StepState.DISPATCHED, StepState.RUNNING)
_PAGE = 200
_A_SLOT = 2
"""Score steps in flight for each live slot of a GPU type: one that runs and one that waits."""


@dataclass(frozen=True, slots=True)
class ScoreMessage:
    """A step to publish a message for."""

    step_id: int
    queue: str


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
        is_ready = ScoreStep.id.in_(first.scalar_subquery()) & ~still_open
        for condition, to in ((some_clip, StepState.WAITING), (~some_clip, StepState.CANCELLED)):
            due = moving(ScoreStep, to, StepState.PENDING).where(is_ready, condition)
            count += session.connection().execute(due).rowcount
    return count


def dispatch_waiting(session: Session, *, window: int, gpu: bool) -> list[ScoreMessage]:
    """Dispatch waiting steps while their queues have room, unless another dispatcher is at it; runs take turns.

    ``gpu`` sends those that need a model to a GPU type with a live worker, where there is one; a step that failed there
    for a fault of its own, such as too little memory, goes to the CPU queue, and so do those of a batch whose budget is
    used up.
    """
    if not is_alone(session):
        return []
    promote_ready(session)
    lines = _waiting(session)
    if not lines:
        return []
    paused, rooms = paused_queues(session), _rooms(session, window, gpu=gpu)
    gpus = [queue for queue in rooms if queue != CPU_QUEUE]
    bound: dict[str, list[int]] = {}
    for step, broke in (row for one_round in zip_longest(*lines) for row in one_round if row is not None):
        wanted = gpus if gpus and step.family != NO_MODEL and not step.faults and not broke else [CPU_QUEUE]
        open_ = [queue for queue in wanted if rooms[queue] > 0 and not is_paused(queue, paused)]
        if open_:
            queue = max(open_, key=lambda name: rooms[name])
            rooms[queue] -= 1
            bound.setdefault(queue, []).append(step.id)
    return [
        ScoreMessage(step_id, queue)
        for queue, ids in bound.items()
        for step_id in sorted(mark_dispatched(session, ScoreStep, ids, queue))
    ]


def _waiting(session: Session) -> list[list[tuple[ScoreStep, bool]]]:
    """The first waiting steps of each run, oldest run first, and whether its batch's budget is used up."""
    ready = (ScoreStep.state == StepState.WAITING) & (ScoreStep.not_before <= now_ms())
    runs = session.execute(
        select(ScoreStep.run_id, Batch.over_budget)
        .join(Batch, Batch.id == ScoreStep.batch_id)
        .where(ready, ~Batch.paused)
        .distinct()
        .order_by(ScoreStep.run_id)
    ).all()
    first = select(ScoreStep).where(ready).order_by(ScoreStep.id).limit(_PAGE).with_for_update(skip_locked=True)
    return [
        [(step, over_budget) for step in session.scalars(first.where(ScoreStep.run_id == run_id))]
        for run_id, over_budget in runs
    ]


def _rooms(session: Session, window: int, *, gpu: bool) -> dict[str, int]:
    """Return how many more steps each queue may hold: the window of the CPU queue is shared with the line's steps."""
    live = in_flight(session, ScoreStep)
    rooms = {CPU_QUEUE: window - live.get(CPU_QUEUE, 0) - in_flight(session).get(CPU_QUEUE, 0)}
    if gpu:
        for queue, slots in workers.capacity(session).slots.items():
            if (gpu_type := gpu_type_of(queue)) is not None and preset_slug_of(queue) is None:
                rooms[gpu_queue(gpu_type)] = _A_SLOT * slots - live.get(queue, 0)
    return rooms


def claim(session: Session, step_id: int, *, queues: Sequence[str], worker: str, lease_ms: int) -> ScoreClaim | None:
    """Take a dispatched step. None when there is nothing to take, as ``leases.claim``."""
    values = {"p_id": step_id, "p_queues": list(queues), "p_worker": worker, "p_lease_ms": lease_ms}
    row = session.connection().execute(_TAKE, values).one_or_none()
    if row is None:
        return None
    metrics, suite = session.execute(select(EvalRun.metrics, EvalRun.suite).where(EvalRun.id == row.run_id)).one()
    published = clips.published(session, row.batch_id, row.first_seq, row.last_seq)
    reference = (suite or {}).get(REFERENCE)
    if reference is not None:
        published = clips.with_references(session, published, reference, row.first_seq, row.last_seq)
    work = ScoreWork(row.run_id, row.batch_id, row.family, tuple(metrics), published, reference)
    return ScoreClaim(step_id, row.attempt, row.queue, worker, work)


_COLUMNS = table_of(ScoreStep).c
_TAKE = taking(ScoreStep, ScoreStep.id == bindparam("p_id"), scored=0, unread=0).returning(
    *(_COLUMNS.attempt, _COLUMNS.queue, _COLUMNS.run_id, _COLUMNS.batch_id),
    *(_COLUMNS.family, _COLUMNS.first_seq, _COLUMNS.last_seq),
)
_COUNT = update(table_of(ScoreStep)).where(current(ScoreStep)).values(scored=ScoreStep.scored + 1)


def record(session: Session, claimed: ScoreClaim, clip: StoredClip, records: Sequence[ScoreRecord]) -> bool:
    """Store one clip's scores, while the step goes on; False when the attempt is no longer the current one."""
    held = held_by(claimed)
    if not session.connection().execute(_COUNT, held.fence).rowcount:
        fenced(session, held)
        return False
    scores.record(session, clip.job_id, clip.roll, records)
    return True


def finish(session: Session, claimed: ScoreClaim, unread: int) -> Finished:
    """End the step as done; ``unread`` clips could not be read."""
    done = ending(ScoreStep, StepState.DONE, unread=unread, error_code=None, error=None)
    return Finished(end(session, held_by(claimed), AttemptOutcome.DONE, done))


def cancel(session: Session, batch_id: str) -> int:
    """End the open steps of a batch's runs; how many. A worker that holds one is fenced: it stops at its next poll."""
    of_batch = ScoreStep.batch_id == batch_id
    running = select(ScoreStep).where(of_batch, ScoreStep.state == StepState.RUNNING).order_by(ScoreStep.id)
    stopped = ending(ScoreStep, StepState.CANCELLED)
    held = [held_of(step) for step in session.scalars(running.with_for_update())]
    count = sum(end(session, attempt, AttemptOutcome.CANCELLED, stopped) for attempt in held)
    count += session.connection().execute(moving(ScoreStep, StepState.CANCELLED).where(of_batch)).rowcount
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
