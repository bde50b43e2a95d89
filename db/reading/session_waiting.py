"""Why a session has no GPU yet: the reason of a clip of its preset, or the sessions that have the GPUs."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import Batch, Reservation, StreamSession
from db.reading.reasons import BatchFacts, Code, Needs, OpenStep, Reason, Situation, explain
from db.reading.sessions import SessionFacts
from db.reading.waiting import batch_facts
from db.sessions.rows import LEFT_UNTIL, ends_at
from pipeline.states import Stage

AWAY_MS = 15_000
"""A connected client is heard of every 5 s; one of which nothing was heard for so long is away."""


def why_no_gpu(session: Session, facts: SessionFacts, now: Situation) -> Reason | None:
    """Return why the session has no GPU that is ready; None where it has one, or has ended."""
    row, reservation = facts.row, facts.reservation
    if row.ended_at is not None or (reservation is not None and reservation.ready_at is not None):
        return None
    batch = session.get(Batch, row.batch_id)
    of_batch = BatchFacts(row.batch_id) if batch is None else batch_facts(session, batch)
    reason = explain(OpenStep(Stage.GENERATE, row.need), of_batch, now)
    if reservation is None and reason.needs is Needs.NOTHING:
        return _reserved_for_others(session, now) or reason
    return reason


def _reserved_for_others(session: Session, now: Situation) -> Reason | None:
    query = (
        select(StreamSession)
        .join(Reservation, Reservation.session_id == StreamSession.id)
        .where(Reservation.ended_at.is_(None), StreamSession.ended_at.is_(None))
    )
    others = session.scalars(query).all()
    if not others:
        return None
    gpus = sum(worker.gpu_type is not None for worker in now.at_work)
    text = f"{len(others)} of {gpus} GPUs are reserved for other sessions"
    ends = [ends_at(row) for row in others if LEFT_UNTIL in row.extra or now.now - row.last_seen >= AWAY_MS]
    if not ends:
        return Reason(Code.RESERVED, text, Needs.NOTHING)
    clock = datetime.fromtimestamp(min(ends) / 1000, UTC).strftime("%H:%M:%S UTC")
    text += f"; the client of one is away, and that GPU is free at {clock} unless the client comes back"
    return Reason(Code.RESERVED, text, Needs.NOTHING, until=min(ends))
