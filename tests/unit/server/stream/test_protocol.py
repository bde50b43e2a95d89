"""Every message, error code, close code and edge of a session, against the mock."""

from __future__ import annotations

import base64
import io
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from PIL import Image

from pipeline.encoding.live.boxes import codecs_of
from server.stream import messages as m
from server.stream.session import (
    MOVES,
    TERMINAL,
    InvalidSessionTransitionError,
    Session,
    SessionRegistry,
    SessionRejectedError,
    SessionState,
)
from tests.unit.server.stream.clients import INIT, Server, mock, prompt


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with mock(generation_segment_cap=2, pool={"num_workers": 4}) as made:
        yield made


def picture(kind: str = "PNG") -> str:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 30, 30)).save(out, kind)
    return base64.b64encode(out.getvalue()).decode()


# A session that goes well


def test_a_session_from_its_first_message_to_its_close(server: Server) -> None:
    with server.client(INIT | {"client_id": "c", "preset": "mock"}, prompt("one"), prompt("two", seed=7)) as client:
        closed = client.end()

    first = ["queue_status", "gpu_assigned", "ltx2_stream_start"]
    segment = ["ltx2_segment_start", "step_complete", "step_complete", "media_init", *["binary"] * 5]
    segment += ["media_segment_complete", "ltx2_segment_complete"]
    assert client.types == [*first, *segment, *segment, "ltx2_stream_complete", "close"]
    assert client.of("ltx2_stream_start") == [
        {"type": "ltx2_stream_start", "preset": "mock", "width": 32, "height": 32, "fps": 8, "num_frames": 8}
    ]
    assert [each["segment_idx"] for each in client.of("ltx2_segment_start")] == [0, 1]
    assert [each["prompt"] for each in client.of("ltx2_segment_start")] == ["one", "two"]
    assert [(each["step"], each["total_steps"], each["stage"]) for each in client.of("step_complete")] == [
        (1, 2, "denoise"), (2, 2, "denoise")] * 2  # fmt: skip
    lasts = [(each["chunks"], each["duration_ms"], each["pts_base_ms"]) for each in client.of("media_segment_complete")]
    assert lasts == [(4, 1000, 0), (4, 1000, 1000)]
    assert client.of("ltx2_stream_complete")[0]["reason"] == "segment_cap"
    assert (closed["code"], closed["reason"]) == (1000, "segment_cap")


def test_the_type_that_is_told_is_that_of_the_stream(server: Server) -> None:
    with server.client(INIT | {"single_clip_mode": True}, prompt()) as client:
        client.end()
    init = client.of("media_init")[0]
    data = client.of("binary")[0]["data"]
    assert init["mode"] == "av_fmp4"
    assert init["mime"] == f'video/mp4; codecs="{codecs_of(data)[0]}"'
    assert client.of("media_segment_complete")[0]["stream_id"] == init["stream_id"]


def test_a_track_of_silence_is_sent_and_told_where_it_is_asked_for(server: Server) -> None:
    with server.client(INIT | {"single_clip_mode": True, "silent_audio": True}, prompt()) as client:
        client.end()
    assert "avc1." in client.of("media_init")[0]["mime"]
    assert "mp4a.40.2" in client.of("media_init")[0]["mime"]
    assert codecs_of(client.of("binary")[0]["data"])[1] == "mp4a.40.2"


def test_pictures_are_sent_one_a_frame(server: Server) -> None:
    with server.client(INIT | {"single_clip_mode": True, "stream_mode": "legacy_jpeg"}, prompt()) as client:
        client.end()
    assert client.of("media_init")[0]["mime"] == "image/jpeg"
    assert client.of("media_init")[0]["mode"] == "legacy_jpeg"
    pictures = [Image.open(io.BytesIO(each["data"])) for each in client.of("binary")]
    assert [(each.format, each.size) for each in pictures] == [("JPEG", (32, 32))] * 8


def test_one_clip_is_all_where_one_is_asked_for(server: Server) -> None:
    with server.client(INIT | {"single_clip_mode": True}, prompt("one"), prompt("two")) as client:
        client.end()
    assert len(client.of("ltx2_segment_complete")) == 1


def test_steps_of_a_message_are_those_that_are_made(server: Server) -> None:
    with server.client(INIT | {"single_clip_mode": True}, prompt(num_inference_steps=5, guidance_scale=1.5)) as client:
        client.end()
    assert [each["step"] for each in client.of("step_complete")] == [1, 2, 3, 4, 5]


def test_equal_requests_give_equal_pictures_and_a_seed_changes_them(server: Server) -> None:
    def made(**fields: Any) -> list[bytes]:
        with server.client(INIT | {"single_clip_mode": True, "stream_mode": "legacy_jpeg"}, prompt(**fields)) as client:
            client.end()
        return [each["data"] for each in client.of("binary")]

    assert made(seed=1) == made(seed=1) != made(seed=2)


# What the client says


def test_an_init_image_is_seen_in_the_first_pictures(server: Server) -> None:
    init = INIT | {"single_clip_mode": True, "stream_mode": "legacy_jpeg"}
    image = {"mime": "image/png", "name": "../../ref.png", "data": picture()}
    with server.client(init | {"initial_image": image}, prompt()) as client:
        client.end()
    red, green, _ = Image.open(io.BytesIO(client.of("binary")[0]["data"])).resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
    with server.client(init, prompt()) as without:
        without.end()
    assert client.of("binary")[0]["data"] != without.of("binary")[0]["data"]
    assert red > green + 40


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ({"mime": "image/gif", "data": "AA=="}, "initial_image.mime: 'image/gif' is not one of"),
        ({"mime": "image/png", "data": 3}, "initial_image.data: is not text"),
        ({"mime": "image/png", "data": "not base64!"}, "initial_image.data: is not valid base64"),
        ({"mime": "image/png", "data": ""}, "initial_image.data: is empty"),
        ({"mime": "image/png", "data": "AAAA"}, "is not a PNG, JPEG or WebP"),
        ("a.png", "initial_image"),
    ],
)
def test_a_wrong_init_image_is_refused(server: Server, image: Any, told: str) -> None:
    with server.client(INIT | {"initial_image": image}) as client:
        closed = client.end()
    assert told in client.of("error")[0]["message"]
    assert client.of("error")[0]["code"] == "invalid_message"
    assert (closed["code"], closed["reason"]) == (1003, "invalid_init")


def test_an_empty_init_image_is_none(server: Server) -> None:
    with server.client(INIT | {"initial_image": {}}) as client:
        client.until("ltx2_stream_start")


def test_a_pause_holds_the_next_segment_back(server: Server) -> None:
    pause, go_on = ({"type": "generation_paused_updated", "paused": value} for value in (True, False))
    with server.client(INIT, pause, prompt("one")) as client:
        client.until("ltx2_stream_start")
        time.sleep(0.2)
        client.send({"type": "snapshot_state"})
        assert client.until("error")["code"] == "internal_error"  # nothing was made meanwhile
        client.send(go_on)
        client.until("ltx2_segment_complete")
    assert client.types.count("ltx2_segment_start") == 1


def test_a_loop_goes_through_the_seed_prompts_until_the_cap() -> None:
    with mock(generation_segment_cap=5) as server:
        with server.client(INIT | {"curated_prompts": ["a", "b"], "loop_generation_enabled": True}) as client:
            client.end()
        assert [each["prompt"] for each in client.of("ltx2_segment_start")] == ["a", "b", "a", "b", "a"]
        assert {each["source"] for each in client.of("ltx2_segment_start")} == {"curated"}

        new = {"type": "seed_prompts_updated", "seed_prompts": ["c"]}
        with server.client(
            INIT | {"curated_prompts": ["a"]}, new, {"type": "loop_generation_updated", "enabled": True}
        ) as client:
            client.end()
        assert {each["prompt"] for each in client.of("ltx2_segment_start")} == {"c"}


def test_a_prompt_of_the_client_comes_before_the_loop_s() -> None:
    with mock(generation_segment_cap=6, step_ms=60) as server:
        with server.client(INIT | {"curated_prompts": ["a"], "loop_generation_enabled": True}) as client:
            client.until("ltx2_segment_start")
            client.send(prompt("mine"))
            client.end()
    prompts = [each["prompt"] for each in client.of("ltx2_segment_start")]
    assert prompts.index("mine") <= 2  # one was ready already
    assert set(prompts) == {"a", "mine"}


def test_enhanced_prompts_are_used_and_told() -> None:
    on, off = ({"type": "enhancement_updated", "enabled": value} for value in (True, False))
    with mock(generation_segment_cap=2) as server:
        with server.client(INIT, on, prompt("fox")) as client:
            client.until("ltx2_segment_complete")
            client.send(off, prompt("hen"))
            client.end()
    first, second = client.of("ltx2_segment_start")
    assert (first["prompt"], first["source"]) == ("fox, in fine detail and soft light", "enhanced")
    assert (second["prompt"], second["source"]) == ("hen", "user")


def test_prompts_are_extended_where_none_comes() -> None:
    with mock(generation_segment_cap=3) as server:
        with server.client(INIT, {"type": "auto_extension_updated", "enabled": True}, prompt("fox")) as client:
            client.end()
    told = [(each["prompt"], each["source"]) for each in client.of("ltx2_segment_start")]
    assert told == [
        ("fox", "user"),
        ("fox, a moment later", "auto_extension"),
        ("fox, a moment later", "auto_extension"),
    ]


def test_a_prompt_is_rewritten(server: Server) -> None:
    with server.client(INIT, {"type": "rewrite_prompt", "prompt": "fox", "count": 2}) as client:
        answer = client.until("prompt_alternatives")
    assert answer["seed_prompt"] == "fox"
    assert len(answer["alternatives"]) == 2


def test_a_stop_ends_the_session_within_a_step() -> None:
    with mock(step_ms=60_000) as server:
        with server.client(INIT, prompt()) as client:
            client.until("ltx2_segment_start")
            client.send({"type": "stop_session"})
            closed = client.end()
        assert client.of("ltx2_stream_complete")[0]["reason"] == "stop_requested"
        assert closed["code"] == 1000
        assert (len(server.service.sessions), server.service.gpus.available) == (0, 2)  # type: ignore[union-attr]


# Snapshots


def test_another_server_goes_on_from_a_snapshot_with_equal_pictures() -> None:
    init = INIT | {"stream_mode": "legacy_jpeg"}
    with mock(generation_segment_cap=2) as one, mock() as other:
        with one.client(init, prompt("fox")) as client:
            client.until("ltx2_segment_complete")
            client.send({"type": "snapshot_state"})
            state = client.until("continuation_state_snapshot")["state"]
            client.send(prompt("hen"))
            client.end()
        with other.client(init | {"continuation_state": state, "single_clip_mode": True}, prompt("hen")) as resumed:
            resumed.end()
    assert set(state) == {"kind", "payload"}
    assert [each["data"] for each in client.of("binary")][8:] == [each["data"] for each in resumed.of("binary")]


def test_there_is_no_snapshot_before_the_first_segment(server: Server) -> None:
    with server.client(INIT, {"type": "snapshot_state"}) as client:
        error = client.until("error")
    assert (error["code"], error["retryable"]) == ("internal_error", False)


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ({"kind": "ltx2.v1", "payload": {}}, "preset_mismatch"),
        ({"kind": "vgen.mock.v1", "payload": {"frame": -1}}, "invalid_message"),
        ({"kind": "vgen.mock.v1", "payload": {"frame": True}}, "invalid_message"),
        ({"kind": 3, "payload": {}}, "invalid_message"),
        ({"payload": {}}, "invalid_message"),
        ("x", "invalid_message"),
    ],
)
def test_a_state_that_is_not_ours_is_refused(server: Server, state: Any, code: str) -> None:
    with server.client(INIT | {"continuation_state": state}) as client:
        closed = client.end()
    assert client.of("error")[0]["code"] == code
    assert closed["code"] == 1003


# What is wrong


@pytest.mark.parametrize(
    ("first", "told", "reason"),
    [
        ("{", "is not JSON", "invalid_init"),
        ("[1]", "is a JSON object", "invalid_init"),
        ('"x"', "is a JSON object", "invalid_init"),
        ("[" * 100_000, "nested too deep", "invalid_init"),
        ("{}", "type: None is not a message", "invalid_init"),
        ('{"type": "session_init_v3"}', "did you mean 'session_init_v2'?", "invalid_init"),
        ('{"type": ["session_init_v2"]}', "is not a message", "invalid_init"),
        ('{"type": "session_init_v2", "stream_mode": "hls"}', "stream_mode: 'hls' is not possible", "invalid_init"),
        ('{"type": "session_init_v2", "curated_prompts": [""]}', "curated_prompts", "invalid_init"),
        ('{"type": "session_init_v2", "session_id": "../x"}', "session_id: '../x' is not the id", "invalid_init"),
        ('{"type": "segment_prompt_source", "prompt": "x"}', "must be session_init_v2", "expected_session_init_v2"),
        ('{"type": "snapshot_state"}', "must be session_init_v2", "expected_session_init_v2"),
    ],
)
def test_a_wrong_first_message_closes_the_session(server: Server, first: str, told: str, reason: str) -> None:
    with server.http.websocket_connect("/v1/stream") as socket:
        socket.send_text(first)
        error, closed = json.loads(socket.receive()["text"]), socket.receive()
    assert told in error["message"]
    assert (error["code"], error["retryable"]) == ("invalid_message", False)
    assert (closed["code"], closed["reason"]) == (1003, reason)


def test_a_first_message_may_not_be_binary(server: Server) -> None:
    with server.http.websocket_connect("/v1/stream") as socket:
        socket.send_bytes(b"{}")
        assert "binary" in json.loads(socket.receive()["text"])["message"]
        assert socket.receive()["code"] == 1003


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"type": "nonsense"}, "type: 'nonsense' is not a message"),
        ({"type": "segment_prompt_sorce", "prompt": "x"}, "did you mean 'segment_prompt_source'?"),
        (INIT, "the session has begun"),
        (prompt("  "), "prompt: '  ' is not possible: is empty"),
        (prompt("x" * 8001), "at most 8000"),
        (prompt("a\0b"), "NUL"),
        ({"type": "segment_prompt_source"}, "prompt: is missing"),
        (prompt(source="gossip"), "source: 'gossip'"),
        (prompt(seed=-1), "seed: -1"),
        (prompt(num_inference_steps=0), "num_inference_steps: 0"),
        (prompt(guidance_scale=1e9), "guidance_scale"),
        ({"type": "seed_prompts_updated", "seed_prompts": ["x"] * 101}, "at most 100"),
        ({"type": "enhancement_updated"}, "enabled: is missing"),
        ({"type": "auto_extension_updated", "enabled": "perhaps"}, "enabled: 'perhaps'"),
        ({"type": "loop_generation_updated", "enabled": None}, "enabled: None"),
        ({"type": "generation_paused_updated"}, "paused: is missing"),
        ({"type": "rewrite_prompt", "prompt": "x", "count": 0}, "count: 0"),
        (prompt("x" * 300_000), "at most 262144 are read"),
    ],
)
def test_a_wrong_message_is_told_and_the_session_goes_on(server: Server, message: dict[str, Any], told: str) -> None:
    with server.client(INIT | {"single_clip_mode": True}) as client:
        client.until("ltx2_stream_start")
        client.send(message)
        error = client.until("error")
        assert told in error["message"]
        assert (error["code"], error["retryable"]) == ("invalid_message", True)
        client.send(prompt())
        assert client.end()["reason"] == "segment_cap"


def test_fields_that_are_not_known_are_not_read(server: Server) -> None:
    with server.client(INIT | {"single_clip_mode": True, "colour": "red"}, prompt() | {"mood": 3}) as client:
        assert client.end()["reason"] == "segment_cap"
    assert client.of("field_ignored") == []


def test_a_field_that_is_misspelt_is_named_and_ends_nothing(server: Server) -> None:
    with server.client(INIT | {"single_clip_mode": True, "stream_mod": 1}, prompt() | {"seeed": 3}) as client:
        assert client.end()["reason"] == "segment_cap"
    told = [(each["message_type"], each["field"]) for each in client.of("field_ignored")]
    assert told == [("session_init_v2", "stream_mod"), ("segment_prompt_source", "seeed")]
    assert "stream_mode" in client.of("field_ignored")[0]["message"]


def test_a_client_that_goes_away_has_its_connection_closed(server: Server) -> None:
    with server.client(INIT) as client:
        client.until("ltx2_stream_start")
        client.send({"type": "leave_session", "seconds": 5})
        closed = client.end()
    assert (closed["code"], closed["reason"]) == (1000, "client_left")
    assert client.of("gpu_assigned")[0]["stored_segments"] == 0


def test_a_prompt_that_is_turned_down_costs_no_segment(server: Server) -> None:
    with server.client(INIT | {"single_clip_mode": True}, prompt("an unsafe fox"), prompt("a fox")) as client:
        client.end()
    assert [each["code"] for each in client.of("error")] == ["invalid_message"]
    assert "classifier" in client.of("error")[0]["message"]
    assert client.of("error")[0]["prompt"] == "an unsafe fox"
    assert [(each["segment_idx"], each["prompt"]) for each in client.of("ltx2_segment_start")] == [(0, "a fox")]


def test_a_seed_prompt_that_is_turned_down_leaves_the_loop() -> None:
    with mock(generation_segment_cap=3) as server:
        seeds = {"curated_prompts": ["unsafe", "b"], "loop_generation_enabled": True}
        with server.client(INIT | seeds) as client:
            client.end()
    assert len(client.of("error")) == 1
    assert [each["prompt"] for each in client.of("ltx2_segment_start")] == ["b", "b", "b"]


def test_another_preset_is_refused(server: Server) -> None:
    with server.client(INIT | {"preset": "wan2.1"}) as client:
        closed = client.end()
    assert client.of("error")[0]["code"] == "preset_mismatch"
    assert not client.of("error")[0]["retryable"]
    assert (closed["code"], closed["reason"]) == (1003, "preset_mismatch")


def test_a_session_over_the_most_is_turned_away() -> None:
    with mock(max_sessions=1) as server:
        with server.client(INIT) as first:
            first.until("ltx2_stream_start")
            with server.http.websocket_connect("/v1/stream") as socket:
                error, closed = json.loads(socket.receive()["text"]), socket.receive()
    assert (error["code"], error["retryable"]) == ("session_rejected", True)
    assert (closed["code"], closed["reason"]) == (1013, "session_rejected")


def test_no_owner_takes_the_room_of_all() -> None:
    registry = SessionRegistry(3, max_per_owner=2)
    first = Session(owner="ada")
    for session in (first, Session(owner="ada")):
        registry.add(session)
    with pytest.raises(SessionRejectedError, match="ada has 2 connections"):
        registry.add(Session(owner="ada"))
    registry.add(Session(owner="bob"))
    with pytest.raises(SessionRejectedError, match="this server has 3 sessions"):
        registry.add(Session(owner="eve"))
    registry.remove(first)
    registry.add(Session(owner="ada"))


def test_places_in_the_queue_are_told_until_a_gpu_is_free() -> None:
    with mock(pool={"num_workers": 1}) as server:
        with server.client(INIT) as first:
            first.until("ltx2_stream_start")
            with server.client(INIT) as second:
                assert second.until("queue_status") | {"session_id": ""} == {
                    "type": "queue_status", "position": 1, "queue_depth": 1, "session_id": "", "reason": None,
                    "message": ""}  # fmt: skip
                with server.client(INIT) as third:
                    assert third.until("queue_status")["position"] == 2
                    first.send({"type": "stop_session"})
                    first.end()
                    assert third.until("queue_status")["position"] == 1
                    assert second.until("gpu_assigned")["gpu_id"] == 0


def test_who_leaves_the_queue_makes_place() -> None:
    with mock(pool={"num_workers": 1}) as server:
        with server.client(INIT) as first:
            first.until("ltx2_stream_start")
            with server.client(INIT) as second:
                second.until("queue_status")
                with server.client(INIT) as third:
                    assert third.until("queue_status")["position"] == 2
                    second.send({"type": "stop_session"})
                    second.end()
                    assert third.until("queue_status")["position"] == 1


def test_no_gpu_in_time_is_told() -> None:
    with mock(pool={"num_workers": 1}, session_timeout_seconds=1) as server:
        pause = {"type": "generation_paused_updated", "paused": False}
        with server.client(INIT) as first:
            first.until("ltx2_stream_start")
            with server.client(INIT) as second:
                for _ in range(4):
                    time.sleep(0.2)
                    first.send(pause)  # it is there, and keeps its GPU
                closed = second.end()
    assert second.of("error")[0]["code"] == "gpu_unavailable"
    assert second.of("error")[0]["retryable"]
    assert (closed["code"], closed["reason"]) == (1013, "gpu_unavailable")


def test_a_session_in_which_nothing_is_asked_for_is_told_before_it_is_closed() -> None:
    with mock(session_timeout_seconds=1) as server:
        with server.client(INIT) as client:
            closed = client.end()
        with server.http.websocket_connect("/v1/stream") as socket:  # nothing is ever said
            silent = [socket.receive(), socket.receive()]
    assert client.types[-3:] == ["session_timeout", "ltx2_stream_complete", "close"]
    assert client.of("session_timeout")[0]["timeout_seconds"] == 1
    assert (closed["code"], closed["reason"]) == (1000, "session_timeout")
    assert json.loads(silent[0]["text"])["type"] == "session_timeout"
    assert silent[1]["code"] == 1000


def test_more_prompts_than_can_wait_are_told(server: Server) -> None:
    pause = {"type": "generation_paused_updated", "paused": True}
    with server.client(INIT, pause, *[prompt(str(number)) for number in range(17)]) as client:
        error = client.until("error")
    assert "16 prompts wait" in error["message"]
    assert error["prompt"] == "16"
    assert error["retryable"]


def test_a_flood_is_dropped_and_then_shut_out(server: Server) -> None:
    with server.client(INIT) as client:
        client.until("ltx2_stream_start")
        for _ in range(1500):
            client.send({"type": "generation_paused_updated", "paused": False})
        closed = client.end()
    assert "at most 20 a second" in client.of("error")[0]["message"]
    assert len(client.of("error")) == 2
    assert (closed["code"], closed["reason"]) == (1008, "flood")


def test_a_client_that_goes_gives_its_gpu_back() -> None:
    with mock(pool={"num_workers": 1}, step_ms=60_000) as server:
        with server.client(INIT, prompt()) as client:
            client.until("ltx2_segment_start")
        with server.client(INIT) as next_client:
            next_client.until("gpu_assigned")


def test_the_encoder_s_failure_is_the_worker_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nonexistent/ffmpeg")
    with mock() as server:
        with server.client(INIT, prompt("one"), prompt("two")) as client:
            closed = client.end()
    errors = client.of("error")
    assert {each["code"] for each in errors} == {"worker_failed"}
    assert "1 prompts that waited" in errors[1]["message"]
    assert client.of("ltx2_stream_complete")[0]["reason"] == "error"
    assert (closed["code"], closed["reason"]) == (1011, "worker_failed")


def test_a_bug_is_an_internal_error_and_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise KeyError("secret")

    with mock() as server:
        monkeypatch.setattr(server.service.prompts, "screen", broken, raising=False)
        with server.client(INIT, prompt()) as client:
            closed = client.end()
    assert client.of("error")[0]["code"] == "internal_error"
    assert "secret" not in client.of("error")[0]["message"]
    assert closed["code"] == 1011


def test_a_mock_keeps_no_session_to_come_back_to(server: Server) -> None:
    with server.client(INIT | {"session_id": "a" * 32}) as client:
        closed = client.end()
    assert client.of("error")[0]["code"] == "session_rejected"
    assert closed["code"] == 1003


def test_the_newest_of_two_clients_has_the_session(server: Server) -> None:
    with server.client(INIT) as first:
        session_id = first.until("gpu_assigned")["session_id"]
        with server.client(INIT | {"session_id": session_id}) as second:
            closed = first.end()
            second.end()
    assert first.of("error")[0]["code"] == "session_rejected"
    assert (closed["code"], closed["reason"]) == (1008, "taken_over")


# Edges


@pytest.mark.parametrize(("old", "new"), list(itertools.product(SessionState, SessionState)))
def test_a_session_moves_along_edges_alone(old: SessionState, new: SessionState) -> None:
    session = Session(state=old)
    if new in MOVES[old]:
        session.transition(new)
        assert session.state is new
    else:
        with pytest.raises(InvalidSessionTransitionError, match=f"from {old} to {new}"):
            session.transition(new)


def test_the_edges_are_those_of_the_contract() -> None:
    def of(state: str) -> set[str]:
        return {target.value for target in MOVES[SessionState(state)]}

    assert of("initializing") == {"queued", "gpu_binding", "rejected", "error"}
    assert of("queued") == {"gpu_binding", "error", "timeout", "rejected"}
    assert of("gpu_binding") == {"active", "error", "timeout"}
    assert of("active") == {"active", "complete", "error", "timeout"}
    assert {state.value for state in TERMINAL} == {"complete", "error", "timeout", "rejected"}


@pytest.mark.parametrize("state", SessionState)
def test_whatever_ends_a_session_it_ends_in_a_terminal_state(state: SessionState) -> None:
    for target in TERMINAL:
        session = Session(state=state)
        session.end(target)
        assert session.state in TERMINAL


def test_every_type_of_the_contract_is_there() -> None:
    def types(union: Any) -> set[str]:
        return {get_args(each.model_fields["type"].annotation)[0] for each in get_args(get_args(union)[0])}

    assert types(m.ClientMessage) == set(m.CLIENT_MESSAGES.types)
    assert types(m.ClientMessage) - {"rewrite_prompt", "stop_session", "leave_session"} == {
        "session_init_v2", "segment_prompt_source", "seed_prompts_updated", "enhancement_updated",
        "auto_extension_updated", "loop_generation_updated", "generation_paused_updated", "snapshot_state",
    }  # fmt: skip
    assert types(m.ServerMessage) - {"prompt_alternatives", "segment_waiting", "field_ignored"} == {
        "queue_status", "gpu_assigned", "ltx2_stream_start", "ltx2_segment_start", "step_complete", "media_init",
        "media_segment_complete", "ltx2_segment_complete", "ltx2_stream_complete", "session_timeout",
        "continuation_state_snapshot", "error",
    }  # fmt: skip
    assert set(get_args(m.ErrorCode)) == {
        "session_rejected", "invalid_message", "preset_mismatch", "gpu_unavailable", "worker_failed",
        "upstream_timeout", "internal_error",
    }  # fmt: skip
