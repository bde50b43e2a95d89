"""The dispatch of waiting steps: which of them go out now, and to which queue.

``fair_share`` orders them; here are the rows, the room of each queue and the state changes.

A dispatched step's message is published after the commit; until then, and if that never happens, the row is the
outbox: the reconciler finds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, exists, func, select, true, tuple_
from sqlalchemy.orm import Session, aliased

from db import workers
from db.clips import batch_closing
from db.models import Batch, Job, Reservation, Step
from db.moves import LeasedTable, moving, table_of
from db.queue.outcomes import return_to_waiting
from db.queue.pauses import is_paused, paused_queues
from db.scheduling.budgets import Budgets
from db.scheduling.capacity import CapacityOfPresets, gpu_capacity, in_flight, preset_capacity
from db.scheduling.fair_share import NO_DEADLINE, Candidate, Enough, WaitingBatch, in_turn, ordered
from db.scheduling.placement import OF_SESSION, ONLY_NEED, head_priority, waiting_needs, waiting_steps
from db.sessions import joined
from pipeline.outputs import GenerateOutput
from pipeline.policy.routes import (
    ALL_QUEUES,
    CPU_QUEUE,
    GpuCapacity,
    choose_gpu_type,
    encode_queue,
    gpu_type_of,
    is_encode_queue,
    preset_queue,
    preset_slug,
    route,
    split_need,
)
from pipeline.presets import Preset, all_presets
from pipeline.states import JobState, Stage, StepState

_Presets = Mapping[str, Preset] | None
"""The presets of this host, which say what fits which GPU; None stands for the catalogue's."""


@dataclass(frozen=True, slots=True)
class StepMessage:
    """A step to publish a message for."""

    job_id: str
    segment: int
    stage: Stage
    queue: str
    scored: bool = False
    """Whether its batch has clips scored before they are published."""
    last_segment: bool = True
    """Whether its segment is the clip's last."""
    roll: int = 1
    attempts: int = 0
    """The attempts that were made at this step before."""


_SESSION_ROOM = 2
"""The segments of a session that its GPU may have been sent: one that runs, and one that waits."""
_PLACE_LOCK = 0x7667656E
"""The key of the advisory lock that a dispatcher holds ("vgen")."""
_TRY_LOCK = select(func.pg_try_advisory_xact_lock(_PLACE_LOCK))


def dispatch_waiting(session: Session, *, window: int, presets: _Presets = None) -> list[StepMessage] | None:
    """Dispatch waiting steps while their queues have room; None while another dispatcher does, which is not waited for.

    Two at once would both fill the same room. ``window`` bounds the steps in flight on each queue that is not a GPU
    queue. Steps nearest to the end go first, so that finished frames do not pile up behind new work.
    """
    if not is_alone(session):
        return None
    batch_closing.close_finished_batches(session)
    paused = paused_queues(session)
    batches = _dispatchable(session)
    if not batches or ALL_QUEUES in paused:
        return []
    live = in_flight(session)
    messages = []
    for stage in reversed(Stage):
        if stage is Stage.GENERATE:
            continue
        queue = route(stage)
        if queue is not None and is_paused(queue, paused):
            continue
        # Encode and score steps are bounded by the hand-off's size, not here.
        room = window if queue is None else window - live.get(queue, 0)
        held_back = [] if queue is not None else _at_paused_handoffs(session, stage, paused)
        chosen = ordered(_candidates(session, batches, stage, room, *held_back), room)
        dispatched = _dispatch(session, stage, chosen, paused)
        for item in dispatched:
            live[item.queue] = live.get(item.queue, 0) + 1
        messages += dispatched
    messages += _dispatch_sessions(session, batches, live, paused)
    capacity = preset_capacity(session, live, paused)
    if not any(each.room > 0 for by_type in capacity.values() for each in by_type.values()):
        return messages
    budgets = Budgets.load(session, lambda: gpu_capacity(session, live))
    free = {batch_id: batch for batch_id, batch in batches.items() if not batch.of_session}
    chosen = ordered(_servable(session, free, capacity, presets, budgets))
    return messages + _dispatch(session, Stage.GENERATE, chosen, paused, capacity, presets, budgets)


def _dispatch_sessions(
    session: Session, batches: Mapping[str, WaitingBatch], live: Mapping[str, int], paused: Sequence[str]
) -> list[StepMessage]:
    """Dispatch sessions' segments, each to the GPU that is reserved for its session."""
    waiting = {
        batch_id: batch for batch_id, batch in batches.items() if batch.of_session and Stage.GENERATE in batch.heads
    }
    if not waiting:
        return []
    budgets = Budgets.load(session, lambda: gpu_capacity(session, live))
    ready_ones = (Reservation.ended_at.is_(None), Reservation.ready_at.is_not(None))
    rows = session.execute(
        select(Reservation.batch_id, Reservation.queue).where(*ready_ones, Reservation.batch_id.in_(waiting))
    ).all()
    messages: list[StepMessage] = []
    for batch_id, queue in rows:
        room = _SESSION_ROOM - live.get(queue, 0)
        if room <= 0 or is_paused(queue, paused) or not budgets.allows(batch_id):
            continue
        chosen = [
            item
            for need in waiting_needs(session, batch_id)
            for item in _first_waiting(session, batch_id, waiting[batch_id], Stage.GENERATE, room, need)
        ][:room]
        moved = _mark_dispatched(session, chosen, queue)
        messages += [
            StepMessage(item.job_id, item.segment, Stage.GENERATE, queue, roll=item.roll, attempts=item.attempts)
            for item in chosen
            if item.step_id in moved
        ]
    return messages


def is_alone(session: Session) -> bool:
    """Return whether no other transaction dispatches; then none will until this one ends. Nobody is waited for."""
    connection = session.connection()
    if connection.dialect.name != "postgresql":
        return True  # on SQLite the transaction itself is exclusive
    return bool(connection.execute(_TRY_LOCK).scalar_one())


_DISPATCHABLE = (
    select(
        *(Batch.id, Batch.owner, Batch.deadline_at),
        Batch.options["score"].as_string().is_not(None),
        OF_SESSION,
        ONLY_NEED,
        *(head_priority(stage).label(stage.value) for stage in Stage),
    )
    .where(Batch.active, ~Batch.paused)
    .order_by(Batch.id)
)


def _dispatchable(session: Session) -> dict[str, WaitingBatch]:
    """The batches of which something may be dispatched, oldest first."""
    batches = {}
    for batch_id, owner, deadline, scored, of_session, only_need, *waiting in session.connection().execute(
        _DISPATCHABLE
    ):
        heads = {stage: head for stage, head in zip(Stage, waiting, strict=True) if head is not None}
        if heads:
            due = NO_DEADLINE if deadline is None else deadline
            batches[batch_id] = WaitingBatch(owner, due, heads, only_need, bool(scored), bool(of_session))
    return batches


def _servable(
    session: Session, batches: dict[str, WaitingBatch], capacity: CapacityOfPresets, presets: _Presets, budgets: Budgets
) -> Iterable[Candidate]:
    """Generate steps that a preset's queue has room for: those without room hold up nobody behind them."""
    enough = Enough()
    for batch_id, batch in in_turn(batches, Stage.GENERATE):
        if not budgets.allows(batch_id):
            continue
        for need in waiting_needs(session, batch_id) if batch.only_need is None else [batch.only_need]:
            by_type = budgets.open_to(batch_id, _capacity_of(need, capacity))
            room, alike = sum(max(0, each.room) for each in by_type.values()), (batch.owner, need, *sorted(by_type))
            if choose_queue(need, by_type, presets) is None or (batch.only_need and enough.reached(alike, room)):
                continue
            candidates = _first_waiting(session, batch_id, batch, Stage.GENERATE, room, need)
            if batch.only_need:
                enough.note(alike, candidates, batch.heads[Stage.GENERATE])
            yield from candidates


def _capacity_of(need: str, capacity: CapacityOfPresets) -> dict[str, GpuCapacity]:
    return capacity.get(preset_slug(split_need(need)[0]), {})


def choose_queue(need: str, capacity: Mapping[str, GpuCapacity], presets: _Presets) -> str | None:
    """The queue of the preset where a clip is expected to start soonest; None when it has to wait.

    ``capacity`` is the preset's, by GPU type.
    """
    preset, gpu = split_need(need)
    catalogue = all_presets() if presets is None else presets
    gpu_type = choose_gpu_type(gpu, catalogue.get(preset), capacity)
    return None if gpu_type is None else preset_queue(gpu_type, preset_slug(preset))


def _at_paused_handoffs(session: Session, stage: Stage, paused: Sequence[str]) -> list[ColumnElement[bool]]:
    """A condition that leaves out the steps of hand-offs whose queues are paused: they hold up nobody behind them."""
    queues = {queue for queue in paused if is_encode_queue(queue)}
    if stage is Stage.SCORE:  # where nobody reads the frames, any CPU scores
        queues &= workers.served_handoffs(session) if queues else set()
    if not queues:
        return []
    generated = aliased(Step)
    place = (generated.job_id == Step.job_id, generated.roll == Step.roll, generated.segment == Step.segment)
    handoff_id = generated.output["handoff_id"].as_string()
    names = [queue.removeprefix(encode_queue("")) for queue in sorted(queues)]
    return [~exists().where(*place, generated.stage == Stage.GENERATE, handoff_id.in_(names))]


def _candidates(
    session: Session, batches: Mapping[str, WaitingBatch], stage: Stage, room: int, *which: ColumnElement[bool]
) -> Iterable[Candidate]:
    """The first waiting steps of batches, as far as there can be room for them; not of those to be generated."""
    enough = Enough()
    for batch_id, batch in in_turn(batches, stage):
        if not enough.reached((batch.owner,), room):
            candidates = _first_waiting(session, batch_id, batch, stage, room, which=which)
            enough.note((batch.owner,), candidates, batch.heads[stage])
            yield from candidates


def _first_waiting(
    session: Session,
    batch_id: str,
    batch: WaitingBatch,
    stage: Stage,
    limit: int,
    need: str = "",
    which: Sequence[ColumnElement[bool]] = (),
) -> list[Candidate]:
    """The first waiting steps of a batch, of one need where they generate: reads of an index only."""
    segments = func.coalesce(Job.spec["segments"].as_integer(), 1)
    last_segment = (Step.segment == segments - 1) if stage is Stage.ENCODE else true()
    rows = session.execute(
        select(Step.id, Step.job_id, Step.segment, Step.roll, Step.priority, Step.attempt, last_segment)
        .join(Job, Job.id == Step.job_id)
        .where(*waiting_steps(batch_id, stage, need), *which)
        .order_by(Step.priority.desc(), Step.id)
        .limit(limit)
        # The job and not the step: whoever changes a step locks its job first, so that none waits for another
        # in a circle. Nothing on SQLite, where the transaction is exclusive.
        .with_for_update(of=Job, skip_locked=True)
    )
    candidates = []
    for step_id, job_id, segment, roll, priority, attempts, last in rows:
        place = (step_id, job_id, batch.owner, batch_id, segment, roll, priority, batch.deadline)
        candidates.append(Candidate(*place, need, batch.scored, bool(last), attempts))
    return candidates


def _dispatch(
    session: Session,
    stage: Stage,
    chosen: Sequence[Candidate],
    paused: Sequence[str],
    capacity: CapacityOfPresets | None = None,
    presets: _Presets = None,
    budgets: Budgets | None = None,
) -> list[StepMessage]:
    if not chosen:
        return []
    bound: dict[str, list[Candidate]] = {}
    for item in chosen:
        if capacity is not None and budgets is not None:
            queue = _reserve_gpu(item, capacity, presets, budgets)
        else:
            queue = _queue_of(session, stage, item)
        if queue is not None and not is_paused(queue, paused):
            bound.setdefault(queue, []).append(item)
    moved = {queue: _mark_dispatched(session, items, queue) for queue, items in bound.items()}
    # In the order in which they were chosen: messages are published in it.
    return [
        StepMessage(item.job_id, item.segment, stage, queue, item.scored, item.last_segment, item.roll, item.attempts)
        for item in chosen
        for queue, ids in moved.items()
        if item.step_id in ids
    ]


def _reserve_gpu(item: Candidate, capacity: CapacityOfPresets, presets: _Presets, budgets: Budgets) -> str | None:
    """Reserve room in a preset's queue and a part of the batch's budget; None where there is no room."""
    by_type = _capacity_of(item.need, capacity)
    if not budgets.allows(item.batch_id):
        return None
    queue = choose_queue(item.need, budgets.open_to(item.batch_id, by_type), presets)
    if queue is not None and (gpu_type := gpu_type_of(queue)) is not None:
        budgets.take(item.batch_id, gpu_type, by_type)
        by_type[gpu_type] = replace(by_type[gpu_type], in_flight=by_type[gpu_type].in_flight + 1)
    return queue


def _queue_of(session: Session, stage: Stage, item: Candidate) -> str | None:
    """The queue of a step that needs no GPU."""
    queue = route(stage)
    if queue is None:
        queue = route(stage, _handoff_id(session, item.job_id, item.roll, item.segment))
    if queue is None and stage is Stage.ENCODE and joined.is_joined(session, item.job_id):
        return CPU_QUEUE  # what it joins lies in the store
    if stage is Stage.SCORE and queue not in workers.served_handoffs(session):
        return CPU_QUEUE  # the clip lies in the store too
    return queue


def _handoff_id(session: Session, job_id: str, roll: int, segment: int) -> str | None:
    """The hand-off where a generate step left its frames."""
    output = session.scalars(
        select(Step.output).where(
            Step.job_id == job_id,
            Step.roll == roll,
            Step.segment == segment,
            Step.stage == Stage.GENERATE,
            Step.state == StepState.DONE,
        )
    ).one_or_none()
    generated = GenerateOutput.from_row(output)
    return generated.handoff_id if generated else None


def _mark_dispatched(session: Session, items: Sequence[Candidate], queue: str) -> set[int]:
    """Move waiting steps to dispatched, and their jobs to in flight; the ids of those that still waited."""
    ids = mark_dispatched(session, Step, [item.step_id for item in items], queue)
    in_flight = moving(Job, JobState.IN_FLIGHT, JobState.WAITING)
    session.connection().execute(in_flight.where(Job.id.in_([item.job_id for item in items if item.step_id in ids])))
    return ids


def mark_dispatched(session: Session, table: LeasedTable, step_ids: Sequence[int], queue: str) -> set[int]:
    """Move waiting steps to dispatched; the ids of those that still waited."""
    waiting = moving(table, StepState.DISPATCHED, StepState.WAITING).where(table.id.in_(step_ids))
    moved = session.connection().execute(waiting.values(queue=queue).returning(table_of(table).c.id))
    return set(moved.scalars())


def undispatch(session: Session, items: Sequence[StepMessage]) -> None:
    """Return to waiting the steps whose message could not be published."""
    places = [(item.job_id, item.segment, item.stage) for item in items]
    of_them = tuple_(Step.job_id, Step.segment, Step.stage).in_(places)
    unsent = session.scalars(select(Step.id).where(of_them, Step.state == StepState.DISPATCHED)).all()
    return_to_waiting(session, Step, unsent)  # else a message came through after all, or the job was cancelled


def earlier_attempts(session: Session, messages: Sequence[StepMessage]) -> dict[tuple[str, int, int, Stage], int]:
    """Return how often each step of these messages' jobs was claimed, by job, roll, segment and stage."""
    job_ids = {item.job_id for item in messages}
    rows = session.execute(
        select(Step.job_id, Step.roll, Step.segment, Step.stage, Step.attempt).where(Step.job_id.in_(job_ids))
    )
    return {(job_id, roll, segment, stage): attempt for job_id, roll, segment, stage, attempt in rows}
