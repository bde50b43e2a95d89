"""Streaming sessions, for every client: WebSocket, Python, operators.

A session owns one batch. Each segment is a job of it, with the key (session, segment): it goes on from the last frames
of the segment before, and may be generated as soon as those are there. The session outlives every process: all that is
known of it is in rows, and any server may go on with it.

    view = open_session(database, settings, SessionChoices(preset="tiny-wan"), owner="ada")
    add_segment(database, settings, view.id, 0, "a fox in the snow")
    session_view(database, view.id).segments[0].generated
    close_session(database, view.id)

Every function is a few short transactions, and blocks: call it in a thread.
"""

from service.sessions.choices import SessionChoices
from service.sessions.ending import close_session
from service.sessions.opening import open_session
from service.sessions.reading import list_sessions, segment_reason, session_view, snapshot, waiting_reason
from service.sessions.segments import add_segment
from service.sessions.upkeep import leave, touch, update_extra

__all__ = [
    "SessionChoices",
    "add_segment",
    "close_session",
    "leave",
    "list_sessions",
    "open_session",
    "segment_reason",
    "session_view",
    "snapshot",
    "touch",
    "update_extra",
    "waiting_reason",
]
