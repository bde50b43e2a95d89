"""Close a session: no more segments are asked for, and those that were made become one clip."""

from db.reading import sessions as reading
from db.session import Database
from db.sessions import rows, settling
from pipeline.states import SessionState
from service.views.sessions import SessionView, session_view


def close_session(
    database: Database,
    session_id: str,
    *,
    owner: str | None = None,
    reason: str = "stop_requested",
    state: SessionState = SessionState.COMPLETE,
    cancel_open: bool = False,
) -> SessionView:
    """End a session; one that has ended stays as it is.

    Segments that were asked for are still made, unless ``cancel_open``. Once all have ended, the job that joins them
    is stored (``joined_job``), and the batch closes with that one.

    Raises:
        NotFoundError: there is no such session, or it is another owner's.
    """
    with database.transaction() as session:
        row = rows.lock(session, rows.get(session, session_id, owner=owner).id)
        if rows.end(session, row, state, reason) and cancel_open:
            settling.cancel_open(session, row)
        session.flush()
        settling.settle(session, row)
        session.flush()
        return session_view(reading.facts_of(session, row))
