"""Pauses of batches, of queues and of everything.

A pause refuses claims at once, whatever was dispatched; a running step sees it within a second and is given back.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db import events
from db.base import insert_into
from db.models import Batch, Queue
from db.moves import LEASED
from db.notify import wake_dispatcher
from db.queue.leases import live, not_paused
from db.queue.outcomes import return_to_waiting
from pipeline.policy.routes import ALL_QUEUES
from pipeline.states import StepState

_PAGE = 200


def pause_batch(session: Session, batch_id: str, *, by: str) -> bool:
    """False when it was paused already."""
    return _set_batch(session, batch_id, True, by)


def resume_batch(session: Session, batch_id: str, *, by: str) -> bool:
    """False when it was not paused."""
    return _set_batch(session, batch_id, False, by)


def _set_batch(session: Session, batch_id: str, paused: bool, by: str) -> bool:
    changed = session.execute(
        update(Batch)
        .where(Batch.id == batch_id, Batch.paused != paused)
        .values(paused=paused)
        .returning(Batch.id)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if changed is not None:
        events.record(session, "paused" if paused else "resumed", batch_id=batch_id, by=by)
        wake_dispatcher(session)
    return changed is not None


def pause_queue(session: Session, queue: str, *, by: str) -> bool:
    """Pause a queue with those below it (``vgen.gpu`` stands for every GPU's), or ``*``; False when it was."""
    paused = insert_into(session.get_bind().dialect.name, Queue).values(name=queue, paused=True)
    changed = session.execute(
        paused.on_conflict_do_update(index_elements=["name"], set_={"paused": True}, where=~Queue.paused).returning(
            Queue.name
        )
    ).one_or_none()
    if changed is not None:
        events.record(session, "queue_paused", queue=queue, by=by)
    return changed is not None


def resume_queue(session: Session, queue: str, *, by: str) -> bool:
    """Undo ``pause_queue`` of that name; False when it was not paused by that name."""
    changed = session.execute(
        update(Queue)
        .where(Queue.name == queue, Queue.paused)
        .values(paused=False)
        .returning(Queue.name)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if changed is not None:
        events.record(session, "queue_resumed", queue=queue, by=by)
        wake_dispatcher(session)
    return changed is not None


def paused_queues(session: Session) -> Sequence[str]:
    """Names as they were paused, ``*`` among them where everything is."""
    return session.scalars(select(Queue.name).where(Queue.paused).order_by(Queue.name)).all()


def is_paused(queue: str, paused: Sequence[str]) -> bool:
    """Return whether one of the names stands for this queue: the same rule as ``leases.not_paused``."""
    return any(name in (ALL_QUEUES, queue) or queue.startswith(f"{name}.") for name in paused)


def withdraw(session: Session) -> int:
    """Return a page of dispatched steps that are paused to waiting; return how many there were.

    Their messages would find nothing to claim, and until the reconciler missed them they would take up the window of
    others. So a resume dispatches them anew, at once.
    """
    count = 0
    for table in LEASED:
        paused = (
            select(table.id)
            .where(live(table, StepState.DISPATCHED), ~not_paused(table.queue, table.batch_id))
            .limit(_PAGE)
        )
        count += len(return_to_waiting(session, table, session.scalars(paused).all()))
    return count
