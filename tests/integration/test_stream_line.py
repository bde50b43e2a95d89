"""`/v1/stream` over a line at work: segments play while they are made, and a session outlives its client."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from PIL import Image
from starlette.testclient import TestClient

from db.session import Database
from pipeline.settings import Settings
from pipeline.wiring import make_storage
from server.app import create_app
from server.stream import StreamService
from server.stream.config import serve_file_of
from service import sessions
from service.sessions import SessionChoices
from tests.line_helpers import home_of, settings_for, solo, until
from tests.unit.server.stream.clients import INIT, Client, Server, prompt

PICTURES = INIT | {"stream_mode": "legacy_jpeg"}


@dataclass
class Line(Server):
    """A server, and the rows behind it."""

    settings: Settings
    database: Database


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    file = serve_file_of(
        {
            "streaming": {"generation_segment_cap": 3, "preset": "idle"},
            "default_request": {"sampling": {"num_frames": 9, "fps": 8, "width": 64, "height": 48, "seed": 7}},
        }
    )
    settings = settings_for(tmp_path_factory.mktemp("stream"))
    with home_of(settings) as database, solo(settings, database):
        service = StreamService.of_line(settings, database, file)
        app = create_app(settings, database, streams=service)
        with TestClient(app, base_url="http://127.0.0.1:8000") as http:
            made = Line(service, http, settings, database)
            until(lambda: http.get("/status").json()["total_gpus"] == 1)
            yield made
        service.close()


def test_a_session_s_segments_are_watched_and_then_joined(line: Line) -> None:
    with line.client(INIT, prompt("one"), prompt("two"), prompt("three")) as client:
        closed = client.end()

    assert (closed["code"], closed["reason"]) == (1000, "segment_cap")
    assert [each["prompt"] for each in client.of("ltx2_segment_start")] == ["one", "two", "three"]
    assert [each["step"] for each in client.of("step_complete")] == [1, 2, 3, 4] * 3
    lasts = [(each["duration_ms"], each["pts_base_ms"]) for each in client.of("media_segment_complete")]
    assert lasts == [(1125, 0), (1000, 1125), (1000, 2125)]  # a later segment repeats a frame, which is not sent again
    assert len({each["stream_id"] for each in client.of("media_init")}) == 3
    assert client.of("ltx2_stream_start")[0] | {"type": ""} == {
        "type": "", "preset": "idle", "width": 64, "height": 48, "fps": 8, "num_frames": 9}  # fmt: skip
    session_id = client.of("gpu_assigned")[0]["session_id"]
    until(lambda: sessions.session_view(line.database, session_id).settled)
    view = sessions.session_view(line.database, session_id)
    assert (view.state, view.end_reason) == ("complete", "segment_cap")
    assert [each.state for each in view.segments] == ["succeeded"] * 3
    assert view.joined_job is not None


def _pictures(client: Client) -> list[bytes]:
    return [each["data"] for each in client.of("binary")]


def test_a_client_that_comes_back_gets_what_it_lacks_with_equal_pictures(line: Line) -> None:
    # Given a client that saw two segments
    with line.client(PICTURES, prompt("one")) as first:
        session_id = first.until("gpu_assigned")["session_id"]
        first.until("ltx2_segment_complete")
        first.send(prompt("two"))
        first.until("ltx2_segment_complete")

    # When it is gone, then its session stays, and goes on with it
    assert sessions.session_view(line.database, session_id).ended_at is None
    back = PICTURES | {"session_id": session_id, "after_segment": 0}
    with line.client(back, prompt("three")) as second:
        closed = second.end()
    assert closed["reason"] == "segment_cap"
    assert [(each["segment_idx"], each["prompt"]) for each in second.of("ltx2_segment_start")] == [
        (1, "two"),
        (2, "three"),
    ]
    assert second.of("media_segment_complete")[0]["pts_base_ms"] == 1125
    again = _pictures(second)[:8]
    assert len(again) == 8
    _assert_alike(_pictures(first)[9:], again)


def _assert_alike(before: Sequence[bytes], after: Sequence[bytes]) -> None:
    """The pictures show the same, whether they come from the frames or from the published clip."""
    for pair in zip(before, after, strict=True):
        one, other = (Image.open(io.BytesIO(data)).resize((4, 4)).tobytes() for data in pair)
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) < 24


def test_a_snapshot_is_what_another_session_goes_on_from(line: Line) -> None:
    with line.client(PICTURES, prompt("one")) as first:
        first.until("ltx2_segment_complete")
        first.send({"type": "snapshot_state"})
        state = first.until("continuation_state_snapshot")["state"]
        first.send(prompt("two", seed=5))
        first.until("ltx2_segment_complete")
        first.send({"type": "stop_session"})
        assert first.end()["reason"] == "stop_requested"
    session_id = first.of("gpu_assigned")[0]["session_id"]
    assert sessions.session_view(line.database, session_id).end_reason == "stop_requested"

    with line.client(
        PICTURES | {"continuation_state": state, "single_clip_mode": True}, prompt("two", seed=5)
    ) as second:
        second.end()
    _assert_alike(_pictures(first)[9:], _pictures(second))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"preset": "nothing-like-it"}, "preset_mismatch"),
        ({"continuation_state": {"kind": "vgen.mock.v1", "payload": {}}}, "preset_mismatch"),
        ({"continuation_state": {"kind": "vgen.session.v1", "payload": {"state": {}}}}, "preset_mismatch"),
    ],
)
def test_what_cannot_be_begun_is_refused(line: Line, fields: dict[str, object], code: str) -> None:
    with line.client(INIT | fields) as client:
        closed = client.end()
    assert [each["code"] for each in client.of("error")] == [code]
    assert closed["code"] == 1003


def test_a_session_that_is_not_there_or_another_s_is_not_gone_on_with(line: Line) -> None:
    other = sessions.open_session(line.database, line.settings, SessionChoices(preset="idle"), owner="eve")
    for session_id in ("f" * 32, other.id):
        with line.client(INIT | {"session_id": session_id}) as client:
            closed = client.end()
        assert client.of("error")[0]["code"] == "session_rejected"
        assert closed["code"] == 1003
    sessions.close_session(line.database, other.id)


def test_a_prompt_with_a_wrong_value_costs_no_segment(line: Line) -> None:
    with line.client(INIT, prompt("one", negative_prompt="\0")) as client:
        error = client.until("error")
        assert "negative_prompt" in error["message"]
        client.send(prompt("two"), {"type": "stop_session"})
        client.end()
    assert all(each["segment_idx"] == 0 for each in client.of("ltx2_segment_start"))


def test_frames_that_lie_here_no_more_are_taken_from_the_published_clip(line: Line) -> None:
    with line.client(INIT, prompt("one")) as first:
        session_id = first.until("gpu_assigned")["session_id"]
        first.until("ltx2_segment_complete")
    until(lambda: sessions.session_view(line.database, session_id).segments[0].video_key is not None)
    job_id = sessions.session_view(line.database, session_id).segments[0].job_id
    until(lambda: not list(line.settings.effective_handoff_dir.glob(f"{job_id}.*.rgb")))

    with line.client(INIT | {"session_id": session_id}) as second:
        second.until("ltx2_segment_complete")
        second.send({"type": "stop_session"})
        second.end()
    assert second.of("media_segment_complete")[0]["chunks"] == first.of("media_segment_complete")[0]["chunks"] == 5


def test_a_segment_whose_clip_was_deleted_cannot_be_shown_and_the_session_goes_on(line: Line) -> None:
    with line.client(INIT, prompt("one")) as first:
        session_id = first.until("gpu_assigned")["session_id"]
        first.until("ltx2_segment_complete")
    until(lambda: sessions.session_view(line.database, session_id).segments[0].video_key is not None)
    job_id = sessions.session_view(line.database, session_id).segments[0].job_id
    until(lambda: not list(line.settings.effective_handoff_dir.glob(f"{job_id}.*.rgb")))
    video_key = sessions.session_view(line.database, session_id).segments[0].video_key
    make_storage(line.settings).delete(str(video_key))

    with line.client(INIT | {"session_id": session_id}, prompt("two")) as second:
        error = second.until("error")
        second.until("ltx2_segment_complete")
        second.send({"type": "stop_session"})
        closed = second.end()

    assert error["code"] == "worker_failed"
    assert (
        error["message"] == "the segment with segment_idx 0 cannot be shown: its clip was deleted; the session goes on"
    )
    assert [each["segment_idx"] for each in second.of("ltx2_segment_complete")] == [1]
    assert closed["code"] == 1000


def test_a_client_that_missed_the_end_of_a_session_is_shown_it(line: Line) -> None:
    with line.client(INIT, prompt("one"), prompt("two"), prompt("three")) as first:
        session_id = first.until("gpu_assigned")["session_id"]
        assert first.end()["reason"] == "segment_cap"

    with line.client(INIT | {"session_id": session_id, "after_segment": 0}, prompt("four")) as second:
        closed = second.end()
    assert [each["segment_idx"] for each in second.of("ltx2_segment_complete")] == [1, 2]
    assert second.of("ltx2_stream_complete")[0]["reason"] == "segment_cap"
    assert (closed["code"], closed["reason"], second.of("error")) == (1000, "segment_cap", [])

    # Who has all of it is told that it has ended
    with line.client(INIT | {"session_id": session_id, "after_segment": 2}) as third:
        closed = third.end()
    assert "has ended (segment_cap)" in third.of("error")[0]["message"]
    assert (closed["code"], closed["reason"]) == (1003, "session_rejected")
    assert len(sessions.session_view(line.database, session_id).segments) == 3


def test_the_newest_client_has_the_session_whichever_server_it_came_to(line: Line) -> None:
    other = StreamService.of_line(line.settings, line.database)
    app = create_app(line.settings, line.database, streams=other)
    with TestClient(app, base_url="http://127.0.0.1:8000") as http, line.client(INIT) as first:
        session_id = first.until("gpu_assigned")["session_id"]
        with Server(other, http).client(INIT | {"session_id": session_id}) as second:
            second.until("ltx2_stream_start")
            closed = first.end()
            assert (closed["code"], closed["reason"]) == (1008, "taken_over")
            second.send({"type": "stop_session"})
            second.end()
    assert sessions.session_view(line.database, session_id).end_reason == "stop_requested"
    other.close()


def test_dreamverses_page_is_served_from_the_same_sessions(line: Line) -> None:
    init = {"type": "session_init_v2", "curated_prompts": ["a door"], "enhancement_enabled": False}
    with line.client(init, path="/ws") as page:
        page.until("ltx2_segment_complete")
        page.send({"type": "append_prompt", "prompt": "a moon"})
        page.until("ltx2_segment_complete")
        page.send({"type": "reset_to_seed_prompts"})
        page.until("seed_prompts_reset_applied")
        page.until("ltx2_segment_complete")
        page.send({"type": "leave"})
        closed = page.end()

    assert (closed["code"], closed["reason"]) == (1000, "stop_requested")
    started = page.of("ltx2_segment_start")
    assert [(each["segment_idx"], each["prompt"]) for each in started] == [(1, "a door"), (2, "a moon"), (1, "a door")]
    assert not page.of("error")
    assert all("mp4a.40.2" in each["mime"] for each in page.of("media_init"))
    assert [each["chunks"] for each in page.of("media_segment_complete")] == [5, 4, 5]
