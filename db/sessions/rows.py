"""A session's row: stored, found, and changed along the allowed moves."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from sqlalchemy import case, exists, func, select, update
from sqlalchemy.orm import Session

from db import events
from db.base import insert_into
from db.clips.jobs import OPEN
from db.models import Batch, Job, StreamSession
from db.moves import move_session
from db.notify import wake_dispatcher
from db.session import now_ms
from pipeline.errors import NoSuchRowError
from pipeline.states import SESSION_ENDS, JobState, SessionState

STREAM_MODE, SILENT_AUDIO = "stream_mode", "silent_audio"
"""The names in a session's ``extra`` under which it is kept how its newest client wants its live media."""
VIEWER = "viewer"
"""The name in a session's ``extra`` under which its newest client is kept."""
LEFT_UNTIL = "left_until"
"""The name in a session's ``extra`` of the time (the database's milliseconds) at which it ends: its client left."""
_OWNER_LOCK = 0x76676F77
"""The first key of the advisory locks of owners who open a session ("vgow")."""


def store(session: Session, values: Mapping[str, Any]) -> bool:
    """Store a session that waits for a GPU; False, and nothing stored, where its id is taken."""
    new = insert_into(session.get_bind().dialect.name, StreamSession).values(
        **values, state=SessionState.QUEUED, segments=0, created_at=now_ms(), last_seen=now_ms()
    )
    statement = new.on_conflict_do_nothing(index_elements=["id"]).returning(StreamSession.id)
    if session.execute(statement).one_or_none() is None:
        return False
    facts = {"session_id": values["id"], "owner": values["owner"], "preset": values["preset"]}
    events.record(session, "session_opened", batch_id=values["batch_id"], **facts)
    wake_dispatcher(session)
    return True


def get(session: Session, session_id: str, *, owner: str | None = None) -> StreamSession:
    """The session of that id, or of the only id that starts so; with ``owner`` one of that owner's only.

    Raises:
        NoSuchRowError: there is none, or several.
    """
    query = select(StreamSession).where(StreamSession.id.startswith(session_id, autoescape=True))
    if owner is not None:
        query = query.where(StreamSession.owner == owner)
    rows = session.scalars(query.order_by(StreamSession.id).limit(2)).all() if session_id else []
    exact = [row for row in rows if row.id == session_id]
    if len(exact or rows) != 1:
        problem = "is not unique" if rows else "does not exist"
        raise NoSuchRowError(f"session {session_id!r} {problem}; `vgen sessions list` shows the sessions")
    return (exact or list(rows))[0]


def is_named(session: Session, text: str) -> bool:
    """Return whether a session's id is, or begins with, that text."""
    if not text:
        return False
    query = select(StreamSession.id).where(StreamSession.id.startswith(text, autoescape=True)).limit(1)
    return session.scalars(query).first() is not None


def find(session: Session, session_id: str) -> StreamSession | None:
    """The session of exactly that id."""
    return session.get(StreamSession, session_id)


def lock(session: Session, session_id: str, *, owner: str | None = None) -> StreamSession:
    """The session of exactly that id, locked until the transaction ends: before any of its jobs. Raises as ``get``."""
    query = select(StreamSession).where(StreamSession.id == session_id)
    if owner is not None:
        query = query.where(StreamSession.owner == owner)
    row = session.scalars(query.with_for_update().execution_options(populate_existing=True)).one_or_none()
    if row is None:
        raise NoSuchRowError(f"session {session_id!r} does not exist; `vgen sessions list` shows the sessions")
    return row


def recent(
    session: Session, *, owner: str | None = None, open_only: bool = False, limit: int = 50
) -> list[StreamSession]:
    """The newest sessions first."""
    query = select(StreamSession).order_by(StreamSession.created_at.desc(), StreamSession.id.desc()).limit(limit)
    if owner is not None:
        query = query.where(StreamSession.owner == owner)
    if open_only:
        query = query.where(StreamSession.ended_at.is_(None))
    return list(session.scalars(query))


def unended(session: Session, owner: str | None = None) -> int:
    """How many sessions have not ended: of an owner, or of all."""
    query = select(func.count()).select_from(StreamSession).where(StreamSession.ended_at.is_(None))
    return session.scalars(query if owner is None else query.where(StreamSession.owner == owner)).one()


def lock_owner(session: Session, owner: str) -> None:
    """Let nobody else open a session of that owner until the transaction ends, so that they can be counted."""
    connection = session.connection()
    if connection.dialect.name == "postgresql":  # on SQLite the transaction itself is exclusive
        connection.execute(select(func.pg_advisory_xact_lock(_OWNER_LOCK, zlib.crc32(owner.encode()) - 2**31)))


def touch(session: Session, session_id: str) -> bool:
    """Note that the session was heard of just now; False where it has ended, or never was.

    It keeps no session, and no GPU for it, whose batch is paused or whose open segments are all held for a person: that
    one ends as if nothing were heard of it, unless somebody resumes it in time.
    """
    own = Job.batch_id == StreamSession.batch_id
    paused = exists().where(Batch.id == StreamSession.batch_id, Batch.paused)
    held = exists().where(own, Job.state == JobState.HELD)
    others = exists().where(own, Job.state.in_([state for state in OPEN if state is not JobState.HELD]))
    still = case((paused | held & ~others, StreamSession.last_seen), else_=now_ms())
    seen = (
        update(StreamSession)
        .where(StreamSession.id == session_id, StreamSession.ended_at.is_(None))
        .values(last_seen=still)
        .returning(StreamSession.id)
        .execution_options(synchronize_session=False)
    )
    return session.execute(seen).one_or_none() is not None


def ends_at(row: StreamSession) -> int:
    """The time at which the session ends unless it is heard of: the database's milliseconds."""
    until = row.last_seen + row.timeout_ms
    return min(until, int(row.extra.get(LEFT_UNTIL, until)))


def end(session: Session, row: StreamSession, to: SessionState, reason: str) -> bool:
    """End a session whose row is locked; False where it had ended before."""
    if row.state in SESSION_ENDS:
        return False
    now = session.scalars(select(now_ms())).one()
    move_session(row, to)
    row.ended_at, row.end_reason = now, reason[:500]
    session.flush()
    events.record(
        session, "session_ended", batch_id=row.batch_id, session_id=row.id, state=to.value, reason=reason[:500]
    )
    wake_dispatcher(session)
    return True
