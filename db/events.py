"""What happened, in order: one row each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from db.models import Event
from db.session import now_ms


def record(session: Session, kind: str, *, batch_id: str | None = None, job_id: str | None = None, **data: Any) -> None:
    """Add one event. ``data`` is small JSON: ids, counts, codes; never prompts or secrets."""
    session.execute(insert(Event).values(at=now_ms(), batch_id=batch_id, job_id=job_id, kind=kind, data=data))


def of_job(session: Session, job_id: str) -> Sequence[Event]:
    return session.scalars(select(Event).where(Event.job_id == job_id).order_by(Event.id)).all()


def of_batch(session: Session, batch_id: str) -> Sequence[Event]:
    return session.scalars(select(Event).where(Event.batch_id == batch_id).order_by(Event.id)).all()
