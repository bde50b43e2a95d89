"""Events: the history of batches, jobs and keys, one row each."""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, cast

from sqlalchemy import Table, insert, select
from sqlalchemy.orm import Session

from db.models import Event
from db.session import now_ms

HISTORY_REMOVED = "history_removed"
"""Kind of the event that says that a batch's attempts were removed on purpose: they can no longer be counted."""
MEDIA_REMOVED = "media_removed"
"""The same of its published files, which retention settings gave an end."""

BROKER_AWAY, BROKER_BACK = "broker_away", "broker_back"
"""Kinds of the events that say that messages could not be sent, and that they can be again."""

acting_key: ContextVar[str | None] = ContextVar("acting_key", default=None)
"""The id of the key with which somebody asked for what happens now, over HTTP: each event that it leads to has it."""

_RECORD = insert(cast(Table, Event.__table__)).values(at=now_ms())


def record(session: Session, kind: str, *, batch_id: str | None = None, job_id: str | None = None, **data: Any) -> None:
    """Add one event. ``data`` is small JSON: ids, counts, codes; never prompts or secrets."""
    session.connection().execute(_RECORD, {"batch_id": batch_id, "job_id": job_id, "kind": kind, "data": _signed(data)})


def record_each(session: Session, kind: str, of: Sequence[tuple[str, str]], **data: Any) -> None:
    """The same event for each of some jobs, given as (batch id, job id)."""
    if of:
        rows = [
            {"batch_id": batch_id, "job_id": job_id, "kind": kind, "data": _signed(data)} for batch_id, job_id in of
        ]
        session.connection().execute(insert(cast(Table, Event.__table__)).values(at=now_ms()), rows)


def _signed(data: dict[str, Any]) -> dict[str, Any]:
    key = acting_key.get()
    return data if key is None else {**data, "by_key": key}


def of_job(session: Session, job_id: str) -> Sequence[Event]:
    return session.scalars(select(Event).where(Event.job_id == job_id).order_by(Event.id)).all()


def of_batch(session: Session, batch_id: str) -> Sequence[Event]:
    return session.scalars(select(Event).where(Event.batch_id == batch_id).order_by(Event.id)).all()


def broker_away_since(session: Session) -> int | None:
    """Return when the broker was found away, for as long as nobody has sent a message since."""
    last = session.execute(
        select(Event.at, Event.kind)
        .where(Event.batch_id.is_(None), Event.kind.in_((BROKER_AWAY, BROKER_BACK)))
        .order_by(Event.id.desc())
        .limit(1)
    ).one_or_none()
    return None if last is None or last.kind == BROKER_BACK else last.at


def record_broker(session: Session, *, away: bool, reason: str = "") -> None:
    """Record that the broker is away, or back, unless that is known."""
    if (broker_away_since(session) is not None) != away:
        record(session, BROKER_AWAY if away else BROKER_BACK, **({"reason": reason[:500]} if away else {}))
