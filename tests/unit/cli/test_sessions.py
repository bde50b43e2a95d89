"""`vgen sessions` and the log of a session."""

from __future__ import annotations

import json

from pipeline.states import Stage
from pipeline.work import Outcome
from tests.unit.cli.conftest import Home, Vgen
from tests.unit.db.line import result_of
from tests.unit.db.session_line import SessionLine


def test_sessions_are_listed_shown_and_closed(home: Home, vgen: Vgen) -> None:
    # Given two sessions, one with a segment that waits
    database = home.database()
    line = SessionLine(database)
    line.worker()
    first, second = line.open(owner="ada"), line.open(owner="bob")
    line.ask(first.id, 0, "a fox in the snow")

    # Then both are listed, newest first, and one by its owner
    listed = vgen("sessions", "list", "--json").json["sessions"]
    assert [each["id"] for each in listed] == [second.id, first.id]
    assert [row[0] for row in vgen("sessions", "list", "--owner", "ada").rows] == [first.id]
    shown = vgen("sessions", "show", first.id[:12], "--json").json
    assert shown["segments"][0]["prompt"] == "a fox in the snow"
    assert shown["queue_position"] == 0
    assert "a fox in the snow" in vgen("sessions", "show", first.id).out

    # When they are closed, each is once, and those that had ended are named
    closed = vgen("sessions", "close", first.id, first.id[:8], "--cancel")
    assert closed.out == f"session {first.id}: closed with 0/1 segments made\n"
    again = vgen("sessions", "close", first.id)
    assert "had ended before (closed_by_operator)" in again.err
    assert [each["state"] for each in vgen("sessions", "list", "--all", "--json").json["sessions"]] == [
        "queued",
        "complete",
    ]
    assert [row[0] for row in vgen("sessions", "list").rows] == [second.id]

    # And its log is there, from its beginning
    log = [json.loads(text) for text in vgen("events", first.id, "--jsonl").out.splitlines()]
    kinds = [entry["kind"] for entry in log]
    assert kinds[0] == "session_opened"
    assert {"segment_added", "session_ended", "job_cancelled"} <= set(kinds)
    assert "session_opened" in vgen("events", second.id[:10]).out
    database.close()


def test_what_is_wrong_with_a_session_is_said(home: Home, vgen: Vgen) -> None:
    database = home.database()
    line = SessionLine(database)
    line.worker()
    opened = line.open()

    missing = vgen("sessions", "show", "nothing")
    assert (missing.code, "session 'nothing' does not exist" in missing.err) == (2, True)
    # Of several that are named all are looked up before one is closed
    assert vgen("sessions", "close", opened.id, "nothing").code == 2
    assert line.view(opened.id).ended_at is None
    assert vgen("events", "nothing").code == 2
    database.close()


def test_a_segment_that_waits_for_a_person_is_shown_with_what_mends_it(home: Home, vgen: Vgen) -> None:
    database = home.database()
    line = SessionLine(database)
    line.worker()
    opened = line.open()
    job = line.ask(opened.id, 0).job_id
    screened = line.take(opened.id, 0, Stage.SCREEN)
    line.finish(screened, result_of(screened, Outcome.HELD))

    shown = vgen("sessions", "show", opened.id)
    assert (
        f"segment 0: it is held for a person's word: as the classifier says (vgen approve {job} (or vgen reject))"
        in shown.out
    )
    assert vgen("sessions", "show", opened.id, "--json").json["segments"][0]["reason"]["code"] == "held"
    assert "held" in vgen("sessions", "list").out
    database.close()
