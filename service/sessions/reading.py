"""Reads sessions for display."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from db.reading import sessions as reading
from db.reading.sessions import SessionFacts
from db.session import Database
from db.sessions import rows
from pipeline.settings import Settings
from service.views.sessions import SessionView
from service.views.sessions import session_view as view_of
from service.views.waiting import ReasonView
from service.waiting import reasons_of, session_reason


def session_view(
    database: Database, session_id: str, *, owner: str | None = None, settings: Settings | None = None
) -> SessionView:
    """Return the session: its state, GPU, place in the queue, segments and continuation state.

    Args:
        owner: only a session of this owner is found.
        settings: with them it is also read why the session has no GPU and why segments are not at work (``reason``),
            which costs some queries more.

    Raises:
        NotFoundError: there is none with that id, or with an id that begins so.
    """
    with database.reading() as session:
        facts = reading.facts_of(session, rows.get(session, session_id, owner=owner))
        return _view(session, facts, _reasons(session, [facts], settings), settings)


def list_sessions(
    database: Database,
    *,
    owner: str | None = None,
    open_only: bool = True,
    limit: int = 50,
    settings: Settings | None = None,
) -> list[SessionView]:
    """Return the newest sessions first: those that have not ended, or all; ``settings`` as for ``session_view``."""
    with database.reading() as session:
        facts = reading.listed(session, owner=owner, open_only=open_only, limit=limit)
        reasons = _reasons(session, facts, settings)
        return [_view(session, each, reasons, settings) for each in facts]


def segment_reason(database: Database, settings: Settings, session_id: str, segment: int) -> ReasonView | None:
    """Return why a segment that was asked for is not at work; None where it is, or has ended.

    Raises:
        NotFoundError: there is no such session.
    """
    with database.reading() as session:
        job = reading.segment_facts(session, rows.get(session, session_id), segment).job
        return reasons_of(session, [job], settings).get(job.id)


def waiting_reason(database: Database, settings: Settings, session_id: str) -> ReasonView | None:
    """Return why a session has no GPU that is ready; None where it has one, or has ended.

    Raises:
        NotFoundError: there is no such session.
    """
    with database.reading() as session:
        return session_reason(session, reading.facts_of(session, rows.get(session, session_id)), settings)


def _view(
    session: Session, facts: SessionFacts, reasons: Mapping[str, ReasonView], settings: Settings | None
) -> SessionView:
    return view_of(facts, reasons, None if settings is None else session_reason(session, facts, settings))


def _reasons(session: Session, sessions: Sequence[SessionFacts], settings: Settings | None) -> dict[str, ReasonView]:
    if settings is None:
        return {}
    return reasons_of(session, [segment.job for facts in sessions for segment in facts.segments], settings)


def snapshot(database: Database, session_id: str, *, owner: str | None = None) -> dict[str, Any] | None:
    """What another session goes on from (``SessionChoices.continuation``); None before a segment was generated.

    Raises:
        NotFoundError: there is no such session.
    """
    with database.reading() as session:
        return reading.snapshot(session, rows.get(session, session_id, owner=owner))
