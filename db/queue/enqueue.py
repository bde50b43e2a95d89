"""Creates a job's next step: dispatched to a queue at once, or waiting for the dispatcher."""

from __future__ import annotations

from functools import lru_cache

from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningInsert

from db.base import insert_into
from db.models import STEPS, Step
from db.session import now_ms
from pipeline.errors import ConflictError
from pipeline.states import STEP_MOVES, Stage, StepState


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
    row = connection.execute(
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
    if row is None:
        raise ConflictError(f"job {job_id}: its {stage.value} step is there and is not pending")


@lru_cache(maxsize=4)
def _queueing(dialect: str, *, dispatched: bool) -> ReturningInsert[tuple[int]]:
    state = StepState.DISPATCHED if dispatched else StepState.WAITING
    assert state in STEP_MOVES[StepState.PENDING]
    at = {"dispatched_at": now_ms()} if dispatched else {}
    new = insert_into(dialect, STEPS).values(state=state, **at)
    return new.on_conflict_do_update(
        index_elements=["job_id", "roll", "segment", "stage"],
        set_={"state": state, "queue": new.excluded.queue, "need": new.excluded.need, **at},
        where=Step.state == StepState.PENDING,
    ).returning(STEPS.c.id)
