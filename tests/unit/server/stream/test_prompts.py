"""Prompts by a real language-model server and a real classifier, in a session of gradients."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.settings import load_settings
from pipeline.wiring import StageModels
from server.stream.prompts import ConfiguredPrompts
from server.stream.source import SourceError
from tests.unit.pipeline.enhancers.llm_server import KEY, KEY_VARIABLE, LLMServer, answers, says, server
from tests.unit.pipeline.safety.fasttext_file import write_safety_classifier
from tests.unit.server.stream.clients import INIT, Server, mock, prompt

__all__ = ["server"]


@pytest.fixture
def site(server: LLMServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    settings = load_settings(
        enhance={"providers": (f"local={server.base_url}",)},
        safety={"classifier": write_safety_classifier(tmp_path / "safety.bin")},
    )
    with mock(generation_segment_cap=2) as made:
        made.service.prompts = ConfiguredPrompts(settings)
        yield made


def test_a_prompt_is_enhanced_extended_and_rewritten(site: Server, server: LLMServer) -> None:
    server.answer = says("a red fox in deep snow")
    init = INIT | {"enhancement_enabled": True, "auto_extension_enabled": True}
    with site.client(init, prompt("a fox")) as client:
        client.end()
    told = [(each["prompt"], each["source"]) for each in client.of("ltx2_segment_start")]
    assert told == [("a red fox in deep snow", "enhanced"), ("a red fox in deep snow", "auto_extension")]

    server.answer = says("1. a red fox\n2. a white fox")
    with site.client(INIT, {"type": "rewrite_prompt", "prompt": "a fox", "count": 2}) as client:
        answer = client.until("prompt_alternatives")
    assert answer["alternatives"] == ["a red fox", "a white fox"]
    assert answer["provider"] == "local"


def test_where_no_language_model_answers_the_prompt_is_used_as_it_was_written(site: Server, server: LLMServer) -> None:
    server.answer = answers(500, {})
    with site.client(INIT | {"enhancement_enabled": True, "single_clip_mode": True}, prompt("a fox")) as client:
        assert client.end()["reason"] == "segment_cap"
    assert [(each["code"], each["retryable"]) for each in client.of("error")] == [("upstream_timeout", True)]
    assert client.of("ltx2_segment_start")[0]["prompt"] == "a fox"
    assert KEY not in str(client.seen)


def test_nothing_is_written_ahead_after_a_failure_until_the_client_says_something(
    site: Server, server: LLMServer
) -> None:
    server.answer = answers(500, {})
    with site.client(INIT | {"auto_extension_enabled": True}, prompt("a fox")) as client:
        assert client.until("error")["code"] == "upstream_timeout"
        asked = len(server.requests)
        client.send(prompt("a hen"))
        client.end()
    assert [each["prompt"] for each in client.of("ltx2_segment_start")] == ["a fox", "a hen"]
    assert len(server.requests) <= asked + 3


def test_unsafe_prompts_are_turned_down_before_anything_is_made(site: Server, server: LLMServer) -> None:
    with site.client(INIT | {"single_clip_mode": True}, prompt("blood and gore"), prompt("a fox")) as client:
        client.end()
    assert "classifier" in client.of("error")[0]["message"]
    assert [each["prompt"] for each in client.of("ltx2_segment_start")] == ["a fox"]

    server.answer = says("blood and gore")
    init = INIT | {"enhancement_enabled": True}
    with site.client(init, prompt("a fox")) as client:
        assert "classifier" in client.until("error")["message"]  # what was written is screened, and what is used


def test_a_classifier_that_cannot_be_used_stops_everything_unless_the_policy_is_open(tmp_path: Path) -> None:
    (tmp_path / "broken.bin").write_bytes(b"x")
    for policy, reason in (("closed", "stop_requested"), ("open", "segment_cap")):
        settings = load_settings(safety={"classifier": tmp_path / "broken.bin", "policy": policy})
        with mock() as site:
            site.service.prompts = ConfiguredPrompts(settings)
            with site.client(INIT | {"single_clip_mode": True}, prompt("a fox")) as client:
                if policy == "closed":
                    assert client.until("error")["code"] == "internal_error"
                    client.send({"type": "stop_session"})
                assert client.end()["reason"] == reason


def test_without_a_language_model_what_needs_one_is_refused() -> None:
    with mock() as site:
        site.service.prompts = ConfiguredPrompts(load_settings())
        with site.client(INIT | {"enhancement_enabled": True, "single_clip_mode": True}) as client:
            assert "VGEN_ENHANCE_PROVIDERS" in client.until("error")["message"]
            for message in (
                {"type": "enhancement_updated", "enabled": True},
                {"type": "auto_extension_updated", "enabled": True},
                {"type": "rewrite_prompt", "prompt": "a fox"},
            ):
                client.send(message)
                assert client.until("error")["code"] == "invalid_message"
            client.send({"type": "enhancement_updated", "enabled": False}, prompt("a fox"))
            assert client.end()["reason"] == "segment_cap"


def test_slow_models_keep_nothing_else_from_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def slow(*_: object) -> Any:
        assert go_on.wait(60)
        return SimpleNamespace(content="")

    monkeypatch.setattr(StageModels, "enhancer", SimpleNamespace(enhance=slow))
    monkeypatch.setattr(ConfiguredPrompts, "_screen", slow)
    prompts = ConfiguredPrompts(load_settings())

    async def run() -> None:
        asked = [asyncio.ensure_future(call("a fox")) for call in (prompts.enhance, prompts.screen) for _ in range(40)]
        await asyncio.sleep(0)
        try:
            assert await asyncio.wait_for(asyncio.to_thread(lambda: "the rows"), 20) == "the rows"
        finally:
            go_on.set()
            await asyncio.gather(*asked)

    asyncio.run(run())
    prompts.close()


def test_a_window_of_prompts_is_one_answer_or_a_reason(site: Server, server: LLMServer) -> None:
    desk = site.service.prompts
    server.answer = says("1. A door at night.\n2. A moon at night.")
    assert asyncio.run(desk.rewrite_window(["a door", "a moon"], "at night", None)) == [
        "A door at night.",
        "A moon at night.",
    ]
    assert len(server.requests) == 1
    with pytest.raises(SourceError, match="2 prompts, and 3 were asked for") as refused:
        asyncio.run(desk.write_window("a door", 3, None))
    assert (refused.value.code, refused.value.fatal) == ("upstream_timeout", False)
