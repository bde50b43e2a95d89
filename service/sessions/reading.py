"""Sessions as they are shown."""

from typing import Any

from db.reading import sessions as reading
from db.session import Database
from db.sessions import rows
from service.views.sessions import SessionView
from service.views.sessions import session_view as view_of


def session_view(database: Database, session_id: str, *, owner: str | None = None) -> SessionView:
    """The session, with ``owner`` only that one's: its state, GPU, place in the queue, segments and continuation state.

    Raises:
        NotFoundError: there is none with that id, or with an id that begins so.
    """
    with database.reading() as session:
        return view_of(reading.facts_of(session, rows.get(session, session_id, owner=owner)))


def list_sessions(
    database: Database, *, owner: str | None = None, open_only: bool = True, limit: int = 50
) -> list[SessionView]:
    """The newest sessions first: those that have not ended, or all."""
    with database.reading() as session:
        facts = reading.listed(session, owner=owner, open_only=open_only, limit=limit)
        return [view_of(each) for each in facts]


def snapshot(database: Database, session_id: str, *, owner: str | None = None) -> dict[str, Any] | None:
    """What another session goes on from (``SessionChoices.continuation``); None before a segment was generated.

    Raises:
        NotFoundError: there is no such session.
    """
    with database.reading() as session:
        return reading.snapshot(session, rows.get(session, session_id, owner=owner))
