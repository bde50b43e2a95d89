"""Closes a session: no more segments, and the finished ones are joined to one clip."""

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
    viewer: str | None = None,
    only_unused: bool = False,
) -> SessionView:
    """End a session; one that has ended stays as it is.

    With ``viewer`` only where that is its newest client, with ``only_unused`` only where no segment was asked for: else
    it goes on. Both are looked at in the transaction that ends it.

    Segments that were asked for are still made; with ``cancel_open`` those whose frames are generated. Once all have
    ended, the job that joins them is stored (``joined_job``), and the batch closes with that one.

    Raises:
        NotFoundError: there is no such session, or it is another owner's.
    """
    with database.transaction() as session:
        row = rows.lock(session, rows.get(session, session_id, owner=owner).id)
        wanted = viewer in (None, row.extra.get(rows.VIEWER, viewer)) and not (only_unused and row.segments)
        if wanted and rows.end(session, row, state, reason) and cancel_open:
            settling.cancel_ungenerated(session, row, wait=True)
        session.flush()
        settling.settle(session, row)
        session.flush()
        return session_view(reading.facts_of(session, row))
