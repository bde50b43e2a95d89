"""Records signs of life of a session, and the state that its protocol keeps with it."""

from typing import Any

from sqlalchemy import select

from db.session import Database, now_ms
from db.sessions import rows
from pipeline.errors import InputError, Problem

_MAX_KEYS = 64


def touch(database: Database, session_id: str) -> bool:
    """Note that the client is there; False where the session has ended, or never was.

    It does not keep a session in which nothing can be made: one whose batch is paused, or whose segments are all held.
    """
    with database.transaction() as session:
        return rows.touch(session, session_id)


def leave(database: Database, session_id: str, *, kept_s: float, viewer: str | None = None) -> None:
    """Note that the client goes away: the session ends after ``kept_s`` seconds unless a client comes for it.

    With ``viewer`` only where that is its newest client. What is not generated then is cancelled.

    Raises:
        NotFoundError: there is no such session.
    """
    with database.transaction() as session:
        row = rows.lock(session, session_id)
        if row.ended_at is None and viewer in (None, row.extra.get(rows.VIEWER, viewer)):
            row.extra = {**row.extra, rows.LEFT_UNTIL: session.scalars(select(now_ms())).one() + round(kept_s * 1000)}


def update_extra(database: Database, session_id: str, **values: Any) -> None:
    """Keep these values with the session, beside those that are kept; None removes one.

    Raises:
        NotFoundError: there is no such session.
        InputError: it would have more than 64 of them.
    """
    with database.transaction() as session:
        row = rows.lock(session, session_id)
        merged = {**row.extra, **values}
        kept = {name: value for name, value in merged.items() if value is not None}
        if len(kept) > _MAX_KEYS:
            raise InputError([Problem(f"has {len(kept)} keys; at most {_MAX_KEYS} are kept", field="extra")])
        row.extra = kept
