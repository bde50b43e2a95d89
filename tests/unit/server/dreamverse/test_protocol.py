"""Every message of ``/ws`` both ways, its limits and its close codes, against the mock."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from PIL import Image
from pydantic import TypeAdapter

from pipeline.encoding.live.boxes import codecs_of
from server.dreamverse import conversation, gpu_session
from server.dreamverse import from_client as c
from server.dreamverse import from_server as m
from server.stream.limits import MAX_MESSAGE_CHARACTERS
from server.stream.source import SourceError
from server.stream.wire import InvalidMessageError
from tests.unit.server.stream.clients import Client, Server, mock

INIT = {"type": "session_init_v2", "preset_id": "story", "preset_label": "A story", "enhancement_enabled": False}
SEEDS = {"curated_prompts": ["a door", " ", "a moon"]}
SEGMENT = ["segment_prompt_source", "ltx2_segment_start", "media_init", "binary", "media_segment_complete"]
SEGMENT += ["step_complete", "ltx2_segment_complete"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with mock(generation_segment_cap=3, pool={"num_workers": 8}) as made:
        yield made


@contextlib.contextmanager
def client(server: Server, *messages: dict[str, Any]) -> Iterator[Client]:
    with server.client(*messages, path="/ws") as connected:
        yield connected


def kinds(types: list[str]) -> list[str]:
    """The types in their order, binary ones in a row as one."""
    return [kind for place, kind in enumerate(types) if kind != "binary" or types[place - 1] != "binary"]


def append(prompt: str, prompt_id: str = "p") -> dict[str, Any]:
    return {"type": "append_prompt", "prompt": prompt, "prompt_id": prompt_id}


def picture() -> dict[str, Any]:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 30, 30)).save(out, "PNG")
    return {"mime": "image/png", "name": "ref.png", "data": base64.b64encode(out.getvalue()).decode()}


# A session that goes well


def test_a_session_goes_through_its_seed_prompts_and_waits(server: Server) -> None:
    with client(server, INIT | SEEDS) as page:
        page.until("prompt_sources_blocked")
        page.send({"type": "leave"})
        closed = page.end()

    begin = ["queue_status", "gpu_assigned", "loop_generation_updated", "generation_paused_updated"]
    begin += ["ltx2_stream_start", "seed_prompts_updated"]
    assert kinds(page.types) == [*begin, *SEGMENT, *SEGMENT, "prompt_sources_blocked", "close"]
    assert page.of("queue_status") == [{"type": "queue_status", "position": 0, "total_gpus": 8, "available_gpus": 8}]
    assert page.of("gpu_assigned")[0]["session_timeout"] == 120
    assert page.of("ltx2_stream_start") == [
        {
            **{"type": "ltx2_stream_start", "total_segments": 2, "preset_id": "story", "stream_mode": "av_fmp4"},
            **{"live_mode": True, "loop_generation_enabled": False, "loop_iteration": 1, "generation_segment_cap": 3},
        }
    ]
    seeds = page.of("seed_prompts_updated")[0]
    assert (seeds["prompts"], seeds["reason"], seeds["preset_label"]) == (["a door", "a moon"], "init", "A story")
    assert page.of("ltx2_segment_start") == [
        {
            **{"type": "ltx2_segment_start", "segment_idx": number, "total_segments": 2, "prompt": prompt},
            **{"source": "curated", "seed_prompt_index": number - 1, "loop_iteration": 1},
        }
        for number, prompt in ((1, "a door"), (2, "a moon"))
    ]
    latency = page.of("step_complete")[0]["latency_ms"]
    assert latency.keys() == {"total", "worker_e2e", "main_user_step", "overhead"}
    assert latency["total"] >= latency["worker_e2e"] > 0
    assert page.of("prompt_sources_blocked")[0]["segment_idx"] == 3
    assert (closed["code"], closed["reason"]) == (1000, "stop_requested")


def test_media_have_a_track_of_sound_and_the_type_that_is_told(server: Server) -> None:
    with client(server, INIT | {"curated_prompts": ["a door"]}) as page:
        page.until("media_segment_complete")
    init, last = page.of("media_init")[0], page.of("media_segment_complete")[0]
    video, sound = codecs_of(page.of("binary")[0]["data"])
    assert sound == "mp4a.40.2"
    assert init["mime"].replace(", ", ",") == f'video/mp4; codecs="{video},{sound}"'
    assert (init["mode"], init["stream_id"]) == ("av_fmp4", last["stream_id"])
    assert last["chunks"] == len(page.of("binary")) - 1


def test_the_first_message_of_a_project_may_be_either(server: Server) -> None:
    with client(server, INIT | {"type": "project_init_v1", "curated_prompts": ["a door"]}) as page:
        page.until("ltx2_segment_complete")


def test_all_messages_of_the_server_are_of_the_union(server: Server) -> None:
    adapter = TypeAdapter(m.ServerMessage)
    with client(server, INIT | SEEDS | {"enhancement_enabled": True}) as page:
        page.send(append("a fox"), {"type": "set_loop_generation", "enabled": True})
        page.until("generation_cap_reached")
        page.send({"type": "rewrite_seed_prompts", "rewrite_instruction": "at night"}, {"type": "set_rewrite_model"})
        page.until("rewrite_seed_prompts_complete")
        page.until("ltx2_segment_complete")
        page.send({"type": "end_project_keep_session"})
        page.until("project_idle")
    for message in page.seen:
        if message["type"] not in ("binary", "close"):
            assert adapter.validate_python(message).model_dump() == message


# Prompts of the client


def test_a_prompt_is_received_made_ready_and_used(server: Server) -> None:
    with client(server, INIT, append("a fox", "p1")) as page:
        page.until("ltx2_segment_complete")
    assert page.of("prompt_received") == [{"type": "prompt_received", "prompt_id": "p1", "queue_depth": 1}]
    ready = page.of("prompt_ready")[0]
    assert (ready["prompt_id"], ready["prompt"], ready["source"]) == ("p1", "a fox", "user_raw")
    assert not page.of("prompt_enhancing")
    chosen = page.of("segment_prompt_source")[0]
    assert (chosen["source"], chosen["prompt_id"], chosen["seed_prompt_index"]) == ("user_raw", "p1", None)


def test_a_prompt_is_enhanced_where_that_is_on(server: Server) -> None:
    with client(server, INIT | {"enhancement_enabled": True}, append("a fox", "p1")) as page:
        started = page.until("ltx2_segment_start")
    assert page.of("prompt_enhancing") == [{"type": "prompt_enhancing", "prompt_id": "p1"}]
    assert page.of("prompt_ready")[0]["source"] == started["source"] == "user_enhanced"
    assert started["prompt"].startswith("a fox, ")


def test_a_prompt_that_nobody_could_enhance_is_told_and_not_used(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(prompt: str) -> str:
        raise SourceError("upstream_timeout", "no language model answered", fatal=False)

    monkeypatch.setattr(server.service.prompts, "enhance", away)
    with client(server, INIT | {"enhancement_enabled": True}, append("a fox", "p1")) as page:
        fallback = page.until("prompt_fallback_used")
        page.send({"type": "set_enhancement", "enabled": False}, append("a boat", "p2"))
        started = page.until("ltx2_segment_start")
    assert (fallback["prompt_id"], fallback["error"]) == ("p1", "no language model answered")
    assert fallback["source"] == "user_enhancement_failed"
    assert started["prompt"] == "a boat"


def test_sources_that_were_blocked_are_resumed(server: Server) -> None:
    with client(server, INIT) as page:
        blocked = page.until("prompt_sources_blocked")
        page.send(append("a fox", "p1"))
        resumed = page.until("prompt_sources_resumed")
    assert blocked["segment_idx"] == 1
    assert (resumed["segment_idx"], resumed["source"], resumed["prompt_id"]) == (1, "user_raw", "p1")


def test_the_clients_prompts_come_before_the_seed_prompts_that_are_left() -> None:
    with mock(step_ms=200, generation_segment_cap=3) as server, client(server, INIT | SEEDS) as page:
        page.until("ltx2_segment_start")
        page.send(append("a fox"))
        page.until("ltx2_segment_start")
        page.until("ltx2_segment_start")
    assert [each["prompt"] for each in page.of("ltx2_segment_start")] == ["a door", "a fox", "a moon"]


def test_a_language_model_goes_on_where_no_prompt_is_left(server: Server) -> None:
    init = INIT | {"curated_prompts": ["a door"], "auto_extension_enabled": True}
    with client(server, init) as page:
        page.until("generation_cap_reached")
    assert [each["source"] for each in page.of("ltx2_segment_start")] == ["curated", "auto_llm", "auto_llm"]


def test_a_language_model_that_fails_is_not_asked_again_for_that_segment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def away(prompt: str) -> str:
        asked.append(prompt)
        raise SourceError("upstream_timeout", "no language model answered", fatal=False)

    monkeypatch.setattr(server.service.prompts, "extend", away)
    init = INIT | {"curated_prompts": ["a door"], "auto_extension_enabled": True}
    with client(server, init) as page:
        failed = page.until("auto_prompt_failed")
        page.until("prompt_sources_blocked")
        page.send({"type": "set_generation_paused", "paused": False})
        page.until("generation_paused_updated")
        assert asked == ["a door"]
        page.send({"type": "set_auto_extension", "enabled": True})
        page.until("auto_prompt_failed")
    assert (failed["segment_idx"], failed["error"]) == (2, "no language model answered")


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("set_enhancement", "enhancement_updated"),
        ("set_auto_extension", "auto_extension_updated"),
        ("set_loop_generation", "loop_generation_updated"),
    ],
)
def test_a_switch_is_answered_with_what_it_is_now(server: Server, kind: str, answer: str) -> None:
    with client(server, INIT) as page:
        page.until("prompt_sources_blocked")
        for enabled in (True, False):
            page.send({"type": kind, "enabled": enabled})
            assert page.until(answer)["enabled"] is enabled


def test_nothing_that_writes_prompts_is_on_without_a_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    with mock() as server:
        monkeypatch.setattr(type(server.service.prompts), "can_write", False)
        init = INIT | {"enhancement_enabled": True, "auto_extension_enabled": True}
        with client(server, init, append("a fox")) as page:
            assert page.until("ltx2_segment_start")["source"] == "user_raw"
            page.send({"type": "set_auto_extension", "enabled": True})
            assert page.until("auto_extension_updated")["enabled"] is False


def test_a_pause_holds_the_next_segment_back(server: Server) -> None:
    with client(server, INIT, {"type": "set_generation_paused", "paused": True}) as page:
        while not any(each["paused"] for each in page.of("generation_paused_updated")):
            page.until("generation_paused_updated")
        page.send(append("a fox"))
        page.until("prompt_ready")
        page.send({"type": "set_rewrite_temperature", "rewrite_temperature": 0.5})
        assert page.until("rewrite_temperature_updated")["rewrite_temperature"] == 0.5
        assert "ltx2_segment_start" not in page.types
        page.send({"type": "set_generation_paused", "paused": False})
        page.until("ltx2_segment_start")


# Anew


def test_the_cap_ends_the_stream_and_a_restart_begins_it_anew(server: Server) -> None:
    with client(server, INIT | {"curated_prompts": ["a", "b", "c", "d"]}) as page:
        reached = page.until("generation_cap_reached")
        page.until("ltx2_stream_complete")
        page.send(append("a fox"))
        assert "Use Rewrite" in page.until("error")["message"]
        page.send({"type": "restart_generation"})
        restarted = page.until("generation_restarted")
        page.until("ltx2_stream_start")
        applied = page.until("seed_prompts_reset_applied")
        again = page.until("ltx2_segment_start")
    assert (reached["segment_cap"], reached["generated_segments"]) == (3, 3)
    assert (restarted["reason"], restarted["segment_cap"]) == ("cap_restart", 3)
    assert (applied["reason"], applied["loop_iteration"]) == ("cap_restart", 2)
    assert (again["segment_idx"], again["prompt"], again["loop_iteration"]) == (1, "a", 2)


def test_seed_prompts_begin_anew_on_request_and_drop_what_waits() -> None:
    with mock(step_ms=200) as server, client(server, INIT | SEEDS) as page:
        page.until("ltx2_segment_start")
        page.send(append("a fox"))
        page.until("prompt_ready")
        page.send({"type": "reset_to_seed_prompts"})
        assert page.until("seed_prompts_reset_pending")["seed_prompt_count"] == 2
        applied = page.until("seed_prompts_reset_applied")
        again = page.until("ltx2_segment_start")
    assert (applied["reason"], applied["dropped_user_ready_queue"]) == ("manual_reset", 1)
    assert (again["segment_idx"], again["prompt"]) == (1, "a door")


def test_a_loop_begins_the_seed_prompts_anew_until_the_cap(server: Server) -> None:
    with client(server, INIT | SEEDS | {"loop_generation_enabled": True}) as page:
        restarted = page.until("loop_restarted")
        page.until("generation_cap_reached")
    assert (restarted["loop_iteration"], restarted["seed_prompt_count"]) == (2, 2)
    assert [each["prompt"] for each in page.of("ltx2_segment_start")] == ["a door", "a moon", "a door"]


def test_one_clip_after_another(server: Server) -> None:
    with client(server, INIT | {"single_clip_mode": True, "curated_prompts": ["a door"]}) as page:
        page.until("ltx2_stream_complete")
        page.send({"type": "simple_generate", "prompt": "a fox", "enhancement_enabled": False})
        assert page.until("seed_prompts_reset_applied")["reason"] == "simple_generate"
        page.until("ltx2_stream_complete")
        page.send({"type": "simple_generate", "prompt": "a boat", "prompt_id": "p2", "enhancement_enabled": True})
        assert page.until("prompt_received")["prompt_id"] == "p2"
        page.until("ltx2_stream_complete")
    starts = page.of("ltx2_segment_start")
    assert [(each["segment_idx"], each["source"]) for each in starts] == [
        (1, "curated"), (1, "curated"), (1, "user_enhanced")]  # fmt: skip
    assert page.of("ltx2_stream_start")[-1]["generation_segment_cap"] == 0


def test_a_text_becomes_a_story_first(server: Server) -> None:
    with client(server, INIT | {"initial_rollout_prompt": "a tiny robot"}) as page:
        page.until("generation_cap_reached")
    order = [kind for kind in kinds(page.types) if kind.startswith(("rewrite", "seed_", "ltx2_stream"))]
    assert order == [
        *("rewrite_seed_prompts_started", "seed_prompts_updated", "rewrite_seed_prompts_complete"),
        *("ltx2_stream_start", "seed_prompts_reset_applied"),
    ]
    assert [each["paused"] for each in page.of("generation_paused_updated")] == [True, False]
    seeds = page.of("seed_prompts_updated")[0]
    assert (len(seeds["prompts"]), seeds["prompts"][0], seeds["reason"]) == (3, "a tiny robot", "rewrite")
    assert page.of("seed_prompts_reset_applied")[0]["reason"] == "initial_rewrite"
    assert [each["prompt"] for each in page.of("ltx2_segment_start")] == seeds["prompts"]


def test_a_text_that_nobody_can_write_on_makes_one_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    with mock() as server:
        monkeypatch.setattr(type(server.service.prompts), "can_write", False)
        with client(server, INIT | {"initial_rollout_prompt": "a tiny robot"}) as page:
            page.until("prompt_sources_blocked")
    done = page.of("rewrite_seed_prompts_complete")[0]
    assert done["fallback_used"] is True
    assert "no language model" in done["error"]
    assert [each["prompt"] for each in page.of("ltx2_segment_start")] == ["a tiny robot"]


def test_a_rewrite_while_a_segment_is_made_begins_anew_after_it() -> None:
    with mock(step_ms=100) as server, client(server, INIT | SEEDS) as page:
        page.until("ltx2_segment_start")
        page.send({"type": "rewrite_seed_prompts", "rewrite_instruction": "at night"})
        assert page.until("rewrite_seed_prompts_complete")["fallback_used"] is False
        assert page.until("seed_prompts_reset_applied")["reason"] == "rewrite_during_generation"
        again = page.until("ltx2_segment_start")
    assert "at night" in again["prompt"]
    assert again["segment_idx"] == 1


def test_the_window_that_is_sent_is_rewritten(server: Server) -> None:
    with client(server, INIT | SEEDS) as page:
        page.until("prompt_sources_blocked")
        page.send({"type": "rewrite_seed_prompts", "prompt_window_prompts": ["a lake", "", "a ship"]})
        seeds = page.until("seed_prompts_updated")["prompts"]
        page.until("ltx2_segment_start")
    assert [seed.split(",")[0] for seed in seeds] == ["a lake", "a ship"]


@pytest.mark.parametrize("failing", ["rewrite_window", "screen"])
def test_a_rewrite_that_fails_leaves_the_prompts_as_they_are(
    server: Server, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    with client(server, INIT | SEEDS) as page:
        page.until("prompt_sources_blocked")

        async def refuse(*arguments: Any) -> Any:
            raise SourceError("upstream_timeout", "not now", fatal=False)

        monkeypatch.setattr(server.service.prompts, failing, refuse)
        page.send({"type": "rewrite_seed_prompts"})
        seeds = page.until("seed_prompts_updated")
        done = page.until("rewrite_seed_prompts_complete")
    assert (seeds["prompts"], seeds["fallback_used"]) == (["a door", "a moon"], True)
    assert (done["fallback_used"], done["error"]) == (True, "not now")


# Projects


def test_a_project_ends_at_once_and_another_begins_in_the_same_session() -> None:
    with mock(step_ms=60_000) as server:
        with client(server, INIT | SEEDS) as page:
            page.until("ltx2_segment_start")
            page.send({"type": "end_project_keep_session"})
            page.until("ltx2_stream_complete")
            page.until("project_idle")
            assert server.service.gpus is not None
            assert server.service.gpus.available == server.service.gpus.count  # others may have it
            page.send(append("a fox"))
            assert page.until("error")["message"] == "Start a new project before sending prompts."
            page.send(INIT | {"type": "project_init_v1", "curated_prompts": ["a lake"]})
            assert page.until("seed_prompts_reset_applied")["reason"] == "project_init"
            started = page.until("ltx2_segment_start")
    assert (started["segment_idx"], started["prompt"], started["loop_iteration"]) == (1, "a lake", 1)
    assert len(page.of("gpu_assigned")) == 1


def test_a_project_may_not_begin_in_another(server: Server) -> None:
    with client(server, INIT, INIT | {"type": "project_init_v1"}) as page:
        error = page.until("error")
    assert "Current project is still ending" in error["message"]


# What is refused


@pytest.mark.parametrize(
    ("init", "code", "reason", "told"),
    [
        ({"curated_prompts": ["a door", "something unsafe"]}, 1008, "Prompt blocked", "blocked initial prompt 2."),
        ({"initial_rollout_prompt": "unsafe"}, 1008, "Prompt blocked", "blocked initial prompt 1."),
        ({"initial_image": {"mime": "image/gif", "data": "AA=="}}, 1003, "Invalid initial image", "image/gif"),
        ({"initial_image": {"mime": "image/png", "data": "AAAA"}}, 1003, "Invalid initial image", "is not a PNG"),
        ({"curated_prompts": 7}, 1003, "Invalid init", "curated_prompts"),
        ({"initial_rollout_prompt": "a\0b"}, 1003, "Invalid init", "holds a NUL (U+0000)"),
        ({"type": "append_prompt", "prompt": "x"}, 1003, "Invalid init", "it must be session_init_v2"),
        ({"type": "session_init"}, 1003, "Invalid init", "did you mean 'session_init_v2'"),
    ],
)
def test_a_first_message_that_cannot_be_used_closes(
    server: Server, init: dict[str, Any], code: int, reason: str, told: str
) -> None:
    with client(server, INIT | init) as page:
        closed = page.end()
    assert told in page.of("error")[0]["message"]
    assert (closed["code"], closed["reason"]) == (code, reason)
    assert "gpu_assigned" not in page.types


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"type": "append_prompt"}, "prompt: is missing"),
        ({"type": "rewrite_seed_prompts", "rewrite_instruction": "a\0b"}, "rewrite_instruction: "),
        (append(" "), "prompt: ' ' is not possible: is empty"),
        (append("x" * 8001), "prompt: "),
        (append("something unsafe"), "the classifier calls it 'unsafe'"),
        ({"type": "simple_generate", "prompt": ""}, "is empty"),
        ({"type": "simple_generate", "prompt": "a fox", "initial_image": {"mime": "text/html"}}, "initial_image.mime"),
        ({"type": "rewrite_seed_prompts"}, "No seed prompts available to rewrite."),
        ({"type": "set_enhancement", "enabled": "maybe"}, "enabled: 'maybe' is not possible"),
        ({"type": "set_rewrite_temperature", "rewrite_temperature": 9}, "rewrite_temperature: 9 is not possible"),
        ({"type": "apend_prompt"}, "did you mean 'append_prompt'"),
        ({"type": "leave", "padding": "x" * MAX_MESSAGE_CHARACTERS}, "at most"),
    ],
)
def test_a_wrong_message_is_told_and_the_session_goes_on(server: Server, message: dict[str, Any], told: str) -> None:
    with client(server, INIT, message) as page:
        assert told in page.until("error")["message"]
        page.send(append("a fox"))
        page.until("ltx2_segment_complete")


def test_what_is_not_a_json_object_is_told(server: Server) -> None:
    with client(server, INIT) as page:
        for text in ("{", "[1]", "null", "[" * 100_000):
            page.socket.send_text(text)
            page.until("error")
        page.socket.send_bytes(b"\0")
        assert "binary messages are not read" in page.until("error")["message"]


def test_more_prompts_than_may_wait_are_refused(server: Server) -> None:
    with client(server, INIT, {"type": "set_generation_paused", "paused": True}) as page:
        page.until("generation_paused_updated")
        page.send(*(append(f"fox {number}") for number in range(17)))
        assert "16 prompts wait" in page.until("error")["message"]


def test_a_picture_begins_the_first_segment_alone(server: Server) -> None:
    with client(server, INIT | SEEDS | {"initial_image": picture()}) as page:
        page.until("prompt_sources_blocked")
    with client(server, INIT | SEEDS) as plain:
        plain.until("prompt_sources_blocked")
    assert page.of("binary")[1]["data"] != plain.of("binary")[1]["data"]


# Limits


def test_a_client_that_says_nothing_is_closed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "INIT_S", 0.05)
    with client(server) as page:
        closed = page.end()
    assert page.types == ["queue_status", "session_timeout", "close"]
    assert (closed["code"], closed["reason"]) == (1000, "Session timeout")


def test_a_session_ends_when_its_time_is_over_whatever_it_does() -> None:
    with mock(step_ms=60_000, session_timeout_seconds=1) as server, client(server, INIT | SEEDS) as page:
        closed = page.end()
    assert page.of("session_timeout")[0]["message"] == "Session expired after 1 seconds"
    assert (closed["code"], closed["reason"]) == (1000, "Session timeout")


def test_who_waits_for_a_gpu_is_told_where_and_then_served() -> None:
    with mock(pool={"num_workers": 1}) as server:
        with client(server, INIT | SEEDS) as first:
            first.until("gpu_assigned")
            with client(server, INIT | SEEDS) as second:
                second.until("queue_status")
                waiting = second.until("queue_status")
                first.send({"type": "leave"})
                first.end()
                second.until("ltx2_segment_complete")
    assert (waiting["position"], waiting["total_gpus"], waiting["available_gpus"]) == (1, 1, 0)
    assert second.of("queue_status")[0]["position"] == 1


def test_a_rewrite_that_was_asked_for_while_a_gpu_was_awaited_is_not_begun_again() -> None:
    with mock(pool={"num_workers": 1}) as server, client(server, INIT | SEEDS) as first:
        first.until("gpu_assigned")
        with client(server, INIT | {"initial_rollout_prompt": "a tiny robot"}) as second:
            second.until("queue_status")
            second.until("queue_status")
            second.send({"type": "rewrite_seed_prompts", "rewrite_instruction": "a large robot"})
            second.until("rewrite_seed_prompts_complete")
            first.send({"type": "leave"})
            first.end()
            started = second.until("ltx2_segment_start")
            second.until("ltx2_segment_complete")
    assert started["prompt"] == "a large robot"
    assert len(second.of("rewrite_seed_prompts_started")) == 1


def test_no_gpu_for_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with mock(pool={"num_workers": 1}, session_timeout_seconds=1) as server:
        monkeypatch.setattr(server.service.gpus, "_free", [])
        with client(server, INIT) as page:
            closed = page.end()
    assert page.of("error")[0]["error_code"] == "gpu_unavailable"
    assert (closed["code"], closed["reason"]) == (1013, "gpu_unavailable")


def test_more_sessions_than_may_be_are_turned_away() -> None:
    with mock(max_sessions=1) as server, client(server, INIT) as first:
        first.until("gpu_assigned")
        with client(server, INIT) as second:
            closed = second.end()
    assert closed["code"] == 1013


def test_a_client_that_leaves_gives_its_gpu_back() -> None:
    with mock(step_ms=60_000) as server:
        with client(server, INIT | SEEDS) as page:
            page.until("ltx2_segment_start")
        assert len(server.service.sessions) == 0
        assert server.service.gpus is not None
        assert server.service.gpus.available == server.service.gpus.count


def failing(server: Server, error: SourceError, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Have the first segment of every session fail so, after it was announced; the sources as they are made."""
    make = server.service.make_source
    sources: list[Any] = []

    def made() -> Any:
        source = make()
        start = source.start_segment

        async def start_segment(request: Any) -> Any:
            if request.index == 0:
                raise error
            async for event in start(request):
                yield event

        monkeypatch.setattr(source, "start_segment", start_segment)
        sources.append(source)
        return source

    monkeypatch.setattr(server.service, "make_source", made)
    return sources


def test_work_that_fails_closes_with_its_reason(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(server, SourceError("worker_failed", "the GPU is gone"), monkeypatch)
    with client(server, INIT | SEEDS) as page:
        closed = page.end()
    assert page.of("error")[-1] == {"type": "error", "message": "the GPU is gone", "error_code": "worker_failed"}
    assert (closed["code"], closed["reason"]) == (1011, "worker_failed")


def test_a_segment_that_is_lost_is_told_and_the_next_prompt_is_made(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(server, SourceError("invalid_message", "prompt: it was turned down", fatal=False), monkeypatch)
    with client(server, INIT | SEEDS) as page:
        assert page.until("error")["message"] == "prompt: it was turned down"
        page.until("ltx2_segment_complete")
    started = page.of("ltx2_segment_start")
    assert [(each["segment_idx"], each["prompt"]) for each in started] == [(1, "a moon")]


def test_a_loop_ends_after_a_round_in_which_nothing_was_made(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = failing(server, SourceError("invalid_message", "prompt: it was turned down", fatal=False), monkeypatch)
    with client(server, INIT | {"curated_prompts": ["a door"], "loop_generation_enabled": True}) as page:
        page.until("prompt_sources_blocked")
    assert [each["enabled"] for each in page.of("loop_generation_updated")] == [True, False]
    assert (len(page.of("error")), len(sources)) == (1, 1)


def test_a_session_whose_numbers_are_used_up_is_followed_by_another(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_session, "_SEGMENTS_OF_SOURCE", 1)
    sources = failing(server, SourceError("invalid_message", "prompt: it was turned down", fatal=False), monkeypatch)
    with client(server, INIT | {"curated_prompts": ["a", "b"]}) as page:
        page.until("prompt_sources_blocked")
    assert len(sources) == 2
    assert [each["message"] for each in page.of("error")] == ["prompt: it was turned down"] * 2


def test_a_project_may_lose_segments_and_make_as_many_as_it_may(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = failing(server, SourceError("invalid_message", "prompt: it was turned down", fatal=False), monkeypatch)
    with client(server, INIT | {"curated_prompts": ["a", "b", "c", "d"]}) as page:
        page.until("generation_cap_reached")
    assert len(page.of("ltx2_segment_complete")) == 3
    assert sources[0]._opening.segment_cap >= 4


def test_a_key_that_is_lost_closes_the_connection(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = failing(server, SourceError("worker_failed", "unused", fatal=False), monkeypatch)
    with client(server, INIT) as page:
        page.until("prompt_sources_blocked")
        page.socket.portal.call(sources[0]._opening.on_key_lost)
        closed = page.end()
    assert (closed["code"], closed["reason"]) == (1008, "key_revoked")


# HTTP before the start


def test_the_pages_probes_are_answered(server: Server) -> None:
    health = server.http.get("/healthz").json()
    assert (health["status"], health["service"]) == ("ok", "ltx2-streaming-mock-server")
    assert server.http.get("/readyz").status_code == 200
    assert server.http.get("/status").json()["total_gpus"] == 8


def test_stories_are_those_of_the_configuration(server: Server) -> None:
    assert server.http.get("/curated-presets").status_code == 404  # the page then keeps its own
    story = {"id": "robot", "label": "A robot", "segment_prompts": ["a door", "a moon"]}
    with mock(curated_presets=[story]) as other:
        answer = other.http.get("/curated-presets").json()
    assert answer["file_path"] is None
    assert (answer["count"], answer["presets"]) == (1, [{**story, "description": ""}])


def test_what_language_models_are_told_is_shown(server: Server) -> None:
    shown = server.http.get("/prompt-system-config").json()
    texts = {name: text for name, text in shown.items() if name.endswith("_system_prompt")}
    assert len(set(texts.values())) == 4
    assert all(isinstance(text, str) and len(text) > 20 for text in texts.values())
    assert (type(shown["rewrite_model"]), type(shown["rewrite_temperature"])) == (str, float)


def test_adapters_are_shown_as_none(server: Server) -> None:
    shown = server.http.get("/lora/options").json()
    assert shown == {"styles": ["none"], "labels": {"none": "None"}, "has_base_lora": False}


@pytest.mark.parametrize("path", ["/lora", "/curated-presets/append", "/prompt-system-config"])
def test_what_a_page_cannot_change_is_refused_in_its_words(server: Server, path: str) -> None:
    answer = server.http.post(path, json={"strength": 0.8, "styles": {"pixar": 1}})
    assert answer.status_code == 403
    assert answer.json()["detail"] == answer.json()["error"]["message"]
    assert answer.json()["error"]["code"] == "read_only"


def test_every_type_of_the_unions_is_listed_once() -> None:
    client_union, server_union = (get_args(get_args(union)[0]) for union in (c.ClientMessage, m.ServerMessage))
    client_types = [kind for model in client_union for kind in get_args(model.model_fields["type"].annotation)]
    assert tuple(client_types) == c.CLIENT_MESSAGES.types
    server_types = [get_args(model.model_fields["type"].annotation)[0] for model in server_union]
    assert len(set(server_types)) == len(server_types)
    with pytest.raises(InvalidMessageError):
        c.CLIENT_MESSAGES.of_text('{"type": "queue_status"}')
