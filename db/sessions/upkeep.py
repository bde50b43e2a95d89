"""Periodic work for sessions: ends silent ones, and settles those that have ended."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from db.models import LIVE_INDEX, Batch, Step, StreamSession
from db.session import now_ms
from db.sessions import rows, settling
from pipeline.states import SESSION_ENDS, SessionState, StepState

SILENT = "session_timeout"
"""The reason of a session's end of which nothing was heard for too long."""
LEFT = "client_left"
"""The reason of a session's end whose client said that it goes away, and did not come back in time."""
OVER_BUDGET = "budget_reached"
"""The reason of a session's end whose budget is used up: nothing more is generated for it."""


def unsettled(session: Session) -> Sequence[str]:
    """The ids of the sessions that are not settled, oldest first."""
    query = select(StreamSession.id).where(StreamSession.settled_at.is_(None))
    return session.scalars(query.order_by(StreamSession.created_at, StreamSession.id)).all()


def poll(session: Session, session_id: str) -> None:
    """End the session if its time is over, and bring it forward (``settling.settle``); nothing if others are at it."""
    query = select(StreamSession).where(StreamSession.id == session_id, StreamSession.settled_at.is_(None))
    row = session.scalars(query.with_for_update(skip_locked=True)).one_or_none()
    if row is None:
        return
    if row.state not in SESSION_ENDS:
        _expire(session, row)
    if row.end_reason == LEFT or (row.end_reason == OVER_BUDGET and _is_over_budget(session, row.batch_id)):
        settling.cancel_ungenerated(session, row)
    settling.settle(session, row)


def _expire(session: Session, row: StreamSession) -> None:
    if _is_over_budget(session, row.batch_id) and not _is_at_work(session, row.batch_id):
        rows.end(session, row, SessionState.ERROR, OVER_BUDGET)
        return
    now = session.scalars(select(now_ms())).one()
    if now < rows.ends_at(row):
        return
    if rows.LEFT_UNTIL in row.extra:
        rows.end(session, row, SessionState.COMPLETE, LEFT)
    elif _is_at_work(session, row.batch_id):
        row.last_seen = now
    else:
        rows.end(session, row, SessionState.TIMEOUT, SILENT)


def _is_over_budget(session: Session, batch_id: str) -> bool:
    return bool(session.scalars(select(exists().where(Batch.id == batch_id, Batch.over_budget))).one())


def _is_at_work(session: Session, batch_id: str) -> bool:
    """A worker has one of its segments in hand: the client waits for it."""
    running = exists().where(LIVE_INDEX, Step.batch_id == batch_id, Step.state == StepState.RUNNING)
    return bool(session.scalars(select(running)).one())
