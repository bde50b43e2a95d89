"""A line's source before rows that nobody works on: quotas, take-overs, clients and keys that are gone."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from db import events, schema
from db.clips.cancel_retry_approve import approve
from db.models import ApiKey
from db.queue import pauses
from db.session import Database
from db.sessions import rows
from db.sessions.upkeep import OVER_BUDGET
from pipeline.encoding.live import Mode
from pipeline.errors import ServiceUnavailableError
from pipeline.settings import load_settings
from pipeline.states import SessionState as RowState
from pipeline.states import Stage
from pipeline.work import Outcome
from server.stream.config import RequestPart
from server.stream.line import LineSource
from server.stream.line import rows as line_rows
from server.stream.line import source as line_source
from server.stream.session import SessionState
from server.stream.source import (
    Assigned,
    ContinuationState,
    OnHold,
    Opening,
    SegmentEvent,
    SegmentRequest,
    SessionTimedOutError,
    SourceError,
)
from service import sessions
from service.views.sessions import SessionView
from tests.unit.db.line import result_of
from tests.unit.db.session_line import SessionLine

ID = "a" * 32


@pytest.fixture
def line(tmp_path: Path) -> Iterator[SessionLine]:
    database = Database(f"sqlite:///{tmp_path / 'line.db'}")
    try:
        schema.upgrade(database)
        made = SessionLine(database)
        made.worker(slots=1)
        yield made
    finally:
        database.close()


def opening(**more: Any) -> Opening:
    return Opening(**{"session_id": ID, "owner": "ada", "preset": "idle", "timeout_s": 60, **more})


def source_of(line: SessionLine) -> LineSource:
    return LineSource(line.settings, line.database, RequestPart())


async def assigned(line: SessionLine, source: LineSource, opening: Opening) -> Assigned:
    async for place in source.open(opening):
        if isinstance(place, Assigned):
            return place
        line.reserve()
        line.reserve()  # what was bound by the first is ready by the second
    raise AssertionError("no GPU was bound")


@contextlib.contextmanager
def acting(line: SessionLine, **quotas: int) -> Iterator[None]:
    with line.database.transaction() as session:
        session.add(ApiKey(id="k1", name="k", owner="ada", scopes=[], secret_sha256="0" * 64, created_at=1))
        session.flush()
        if quotas:
            session.execute(update(ApiKey).values(**quotas))
    token = events.acting_key.set("k1")
    try:
        yield
    finally:
        events.acting_key.reset(token)


async def left(source: LineSource, reason: str = "client_left", *, client_left: bool = True) -> None:
    await source.close(client_left=client_left, state=SessionState.COMPLETE, reason=reason)


def test_a_segment_that_a_key_may_not_have_yet_is_asked_for_at_its_turn(
    line: SessionLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_source, "_QUOTA_RETRY_S", 0.01)

    async def run() -> None:
        source = source_of(line)
        await assigned(line, source, opening())
        for number in range(3):  # the second is over the quota, and the third may not come before it
            await source.announce(SegmentRequest(number, f"segment {number}"))
        assert len(line.view(ID).segments) == 1

        events_of_second = source.start_segment(SegmentRequest(1, "segment 1"))
        waiting = asyncio.ensure_future(anext(events_of_second))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        line.make(ID, 0)
        started = await asyncio.wait_for(waiting, 30)
        assert started.prompt == "segment 1"  # type: ignore[union-attr]
        await left(source)

    with acting(line, max_active_jobs=1):
        asyncio.run(run())
    assert [each.prompt for each in line.view(ID).segments] == ["segment 0", "segment 1"]


def test_a_quota_that_is_used_up_ends_the_session_as_one_that_may_not_go_on(line: SessionLine) -> None:
    async def run() -> None:
        source = source_of(line)
        await assigned(line, source, opening())
        for number in range(2):  # the first is still made whatever becomes of the second
            await source.announce(SegmentRequest(number, f"segment {number}"))
        with pytest.raises(SourceError, match="1 clips a day") as raised:
            await anext(source.start_segment(SegmentRequest(1, "segment 1")))
        assert (raised.value.code, raised.value.fatal) == ("session_rejected", True)
        await left(source)

    with acting(line, max_daily_clips=1):
        asyncio.run(run())


def test_who_lost_a_session_to_another_client_neither_ends_it_nor_asks_for_more(line: SessionLine) -> None:
    displaced = []

    async def run() -> None:
        source = source_of(line)
        await assigned(line, source, opening(on_displaced=lambda: displaced.append(True)))
        sessions.update_extra(line.database, ID, viewer="another")
        line.ask(ID, 0, "what the other asked for")
        with pytest.raises(SourceError):
            await source.announce(SegmentRequest(0, "what this one asks for"))
        await source.close(client_left=False, state=SessionState.ERROR, reason="session_rejected")

    asyncio.run(run())
    assert displaced == [True]
    view = line.view(ID)
    assert (view.ended_at, view.segments[0].state) == (None, "waiting")


def test_a_client_that_comes_while_the_one_before_ends_the_session_has_it(line: SessionLine) -> None:
    async def run() -> None:
        source = source_of(line)
        await assigned(line, source, opening())
        before = source._rows._view_at_close

        async def taken_over_meanwhile() -> SessionView | None:
            view = await before()
            sessions.update_extra(line.database, ID, viewer="another")
            return view

        source._rows._view_at_close = taken_over_meanwhile  # type: ignore[method-assign]
        await source.close(client_left=False, state=SessionState.COMPLETE, reason="stop_requested")

    asyncio.run(run())
    assert line.view(ID).ended_at is None


def test_a_segment_that_is_asked_for_while_its_client_leaves_keeps_the_session(line: SessionLine) -> None:
    async def run() -> None:
        source = source_of(line)
        await assigned(line, source, opening())
        before = source._rows._view_at_close

        async def asked_meanwhile() -> SessionView | None:
            view = await before()
            line.ask(ID, 0)
            return view

        source._rows._view_at_close = asked_meanwhile  # type: ignore[method-assign]
        await left(source)

    asyncio.run(run())
    assert line.view(ID).ended_at is None


def test_what_the_client_before_asked_for_is_found_or_refused(
    line: SessionLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sessions.update_extra

    async def run() -> None:
        before, after = source_of(line), source_of(line)
        await assigned(line, before, opening())

        def late(*arguments: Any, **options: Any) -> None:
            line.ask(ID, 0, "what the one before asks for in the last moment")
            real(*arguments, **options)

        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(sessions, "update_extra", late)
            found = await assigned(line, after, opening(resume=True))
        assert [each.index for each in found.pending] == [0]

        # What it asks for later is refused, so that it cannot take the place of what this one asks for
        with pytest.raises(SourceError, match="another client's now"):
            await before.announce(SegmentRequest(1, "too late"))
        await after.announce(SegmentRequest(1, "a fox"))

    asyncio.run(run())
    assert [each.prompt for each in line.view(ID).segments][1:] == ["a fox"]


def test_a_session_that_has_ended_is_not_gone_on_with_though_its_gpu_is_still_reserved(line: SessionLine) -> None:
    async def run() -> None:
        await assigned(line, source_of(line), opening())
        line.ask(ID, 0)
        sessions.close_session(line.database, ID, reason="closed_by_operator")
        assert line.view(ID).gpu_ready
        with pytest.raises(SourceError, match=r"has ended \(closed_by_operator\).*open a new one") as raised:
            await assigned(line, source_of(line), opening(resume=True))
        assert (raised.value.code, raised.value.retryable) == ("session_rejected", False)

    asyncio.run(run())


def test_a_database_that_is_away_is_waited_for_and_then_the_session_is_left_to_another_server(
    line: SessionLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, away = sessions.session_view, [False]

    def view(*arguments: Any, **options: Any) -> SessionView:
        if away[0]:
            raise ServiceUnavailableError("database postgresql://db.internal:5432/line: connection refused")
        return real(*arguments, **options)

    monkeypatch.setattr(sessions, "session_view", view)
    monkeypatch.setattr(line_rows, "_AWAY_RETRY_S", 0.02)

    async def run() -> None:
        source = source_of(line)
        await assigned(line, source, opening())
        request = SegmentRequest(0, "a fox")
        await source.announce(request)
        away[0] = True
        begun = asyncio.ensure_future(anext(source.start_segment(request)))
        await asyncio.sleep(0.1)
        assert not begun.done()
        away[0] = False
        await asyncio.wait_for(begun, 30)

        # When it is away for longer than a client may be, then the client is told, and the session is not ended
        away[0], source._rows._patience_s = True, 0.1
        with pytest.raises(SourceError, match="come back later") as raised:
            await anext(source.start_segment(request))
        assert "db.internal" not in raised.value.message
        assert (raised.value.code, raised.value.retryable) == ("internal_error", True)
        away[0] = False
        await left(source, "internal_error", client_left=False)

    asyncio.run(run())
    assert line.view(ID).ended_at is None


def test_a_client_may_not_shorten_the_id_of_its_session(line: SessionLine) -> None:
    async def run() -> None:
        await assigned(line, first := source_of(line), opening())
        with pytest.raises(SourceError, match="does not exist"):
            await assigned(line, second := source_of(line), opening(session_id=ID[:8], resume=True))
        await left(second, "session_rejected", client_left=False)
        await left(first, "server_stops")

    asyncio.run(run())
    assert line.view(ID).ended_at is None


def test_a_session_that_was_still_being_opened_when_its_client_left_ends(
    line: SessionLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, real = threading.Event(), threading.Event(), sessions.open_session

    def slow(*arguments: Any, **options: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return real(*arguments, **options)

    monkeypatch.setattr(sessions, "open_session", slow)

    async def run() -> None:
        source = source_of(line)
        task = asyncio.create_task(assigned(line, source, opening()))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        go_on.set()
        await left(source, "stop_requested", client_left=False)

    asyncio.run(run())
    assert line.view(ID).end_reason == "stop_requested"


@pytest.mark.parametrize(
    ("reason", "asked", "ends"),
    [
        ("client_left", 0, True),
        ("client_left", 1, False),
        ("server_stops", 0, False),  # its clients come back to another server
        ("taken_over", 0, False),
    ],
)
def test_a_session_for_which_nothing_was_asked_does_not_wait_for_a_client_that_left(
    line: SessionLine, reason: str, asked: int, ends: bool
) -> None:
    async def run() -> None:
        await assigned(line, source := source_of(line), opening())
        for number in range(asked):
            await source.announce(SegmentRequest(number, "a fox"))
        await left(source, reason)

    asyncio.run(run())
    assert (line.view(ID).ended_at is not None) is ends


def test_a_key_that_was_revoked_ends_its_conversation(line: SessionLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_rows, "_TOUCH_S", 0.02)

    async def run() -> None:
        lost = asyncio.Event()
        source = source_of(line)
        await assigned(line, source, opening(key_id="k1", on_key_lost=lost.set))
        await asyncio.sleep(0.1)
        assert not lost.is_set()
        with line.database.transaction() as session:
            session.execute(update(ApiKey).values(revoked_at=2))
        await asyncio.wait_for(lost.wait(), 30)
        await left(source, "key_revoked", client_left=False)

    with acting(line):
        asyncio.run(run())
    assert line.view(ID).end_reason == "key_revoked"


def test_a_segment_that_waits_when_the_budget_is_reached_is_waited_for_no_more(line: SessionLine) -> None:
    async def run() -> None:
        source = source_of(line)
        await assigned(line, source, opening())
        request = SegmentRequest(0, "a fox")
        await source.announce(request)
        made = source.start_segment(request)
        await anext(made)
        with line.database.transaction() as session:
            rows.end(session, rows.lock(session, ID), RowState.ERROR, OVER_BUDGET)
        with pytest.raises(SourceError, match="budget_reached") as raised:
            await asyncio.wait_for(anext(made), 30)
        assert (raised.value.code, raised.value.fatal) == ("session_rejected", True)
        await left(source, "session_rejected", client_left=False)

    asyncio.run(run())


@pytest.mark.parametrize(("stopped_by", "reason"), [("hold", "held"), ("pause", "batch_paused")])
def test_a_client_is_told_why_its_segment_is_not_at_work_and_when_that_is_over(
    line: SessionLine, monkeypatch: pytest.MonkeyPatch, stopped_by: str, reason: str
) -> None:
    monkeypatch.setattr(line_source, "_REASON_S", 0.01)

    async def on_hold(events: AsyncIterator[SegmentEvent]) -> OnHold:
        async for event in events:
            if isinstance(event, OnHold):
                return event
        raise AssertionError("nothing was told")

    async def run() -> None:
        source = source_of(line)
        await assigned(line, source, opening())
        request = SegmentRequest(0, "a fox")
        await source.announce(request)
        screened = line.take(ID, 0, Stage.SCREEN)
        held = stopped_by == "hold"
        line.finish(screened, result_of(screened, Outcome.HELD if held else Outcome.DONE))
        if not held:
            with line.database.transaction() as session:
                pauses.pause_batch(session, line.view(ID).batch_id, by="bob")

        segment = source.start_segment(request)
        told = await asyncio.wait_for(on_hold(segment), 30)
        assert (told.code, told.needs) == (reason, "person")
        assert ("person's word" if held else "paused by bob") in told.text

        with line.database.transaction() as session:
            if held:
                approve(session, line.view(ID).segments[0].job_id, by="bob")
            else:
                pauses.resume_batch(session, line.view(ID).batch_id, by="bob")
        assert await asyncio.wait_for(on_hold(segment), 30) == OnHold()
        await left(source, "stop_requested", client_left=False)

    asyncio.run(run())


def test_a_segment_that_is_held_when_its_sessions_time_is_over_is_waited_for_no_more(line: SessionLine) -> None:
    async def run() -> None:
        source = source_of(line)
        await assigned(line, source, opening())
        request = SegmentRequest(0, "a fox")
        await source.announce(request)
        screened = line.take(ID, 0, Stage.SCREEN)
        line.finish(screened, result_of(screened, Outcome.HELD))
        made = source.start_segment(request)
        await anext(made)
        line.silence(ID, 61)
        line.poll()
        with pytest.raises(SessionTimedOutError):
            await asyncio.wait_for(anext(made), 30)
        await left(source, "session_timeout", client_left=False)

    asyncio.run(run())


def test_a_client_that_comes_back_finds_what_its_session_was_opened_with(line: SessionLine) -> None:
    async def run() -> None:
        first = source_of(line)
        await assigned(
            line, first, opening(mode=Mode.LEGACY_JPEG, silent_audio=True, segment_cap=2, preset_label="the one")
        )
        await first.announce(SegmentRequest(0, "segment 0"))
        await left(first)
        assert line.view(ID).extra["preset_label"] == "the one"

        second = source_of(line)
        place = await assigned(line, second, opening(resume=True, unsaid=frozenset({"mode", "silent_audio"})))
        assert (place.segment_cap, len(place.pending)) == (2, 1)
        kept = line.view(ID).extra
        assert (kept[rows.STREAM_MODE], kept[rows.SILENT_AUDIO]) == ("legacy_jpeg", True)
        await left(second)

        third = source_of(line)
        await assigned(line, third, opening(resume=True, unsaid=frozenset({"mode"})))
        kept = line.view(ID).extra
        assert (kept[rows.STREAM_MODE], kept[rows.SILENT_AUDIO]) == ("legacy_jpeg", False)
        await left(third)

    asyncio.run(run())


def test_a_snapshot_of_another_store_is_refused_with_what_it_lacks(line: SessionLine, tmp_path: Path) -> None:
    first = line.open(width=64, height=64)
    line.ask(first.id, 0)
    line.make(first.id, 0, Stage.GENERATE)
    snapshot = sessions.snapshot(line.database, first.id)
    state = ContinuationState("vgen.session.v1", {"preset": "idle", "state": snapshot})
    line.settings = load_settings(home=tmp_path / "another")

    async def run() -> None:
        request = RequestPart.model_validate({"sampling": {"width": 64, "height": 64}})
        with pytest.raises(SourceError, match="not in this server's store") as raised:
            await anext(aiter(LineSource(line.settings, line.database, request).open(opening(state=state))))
        assert (raised.value.code, raised.value.retryable) == ("session_rejected", False)

    asyncio.run(run())
