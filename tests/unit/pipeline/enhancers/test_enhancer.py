"""Order of providers, fallback, cleaning of answers, system prompts, rewrites: with real servers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.enhancers.enhancer import MAX_PROMPT_CHARACTERS, PromptEnhancer
from pipeline.enhancers.providers import KNOWN_PROVIDERS, make_provider
from pipeline.enhancers.rewrite import RewriteOptions, build_rewrite
from pipeline.enhancers.system_prompts import Operation, SystemPrompts
from pipeline.errors import RefusedError, RetryableError, SettingsError, StoppedError
from pipeline.settings import EnhanceSettings
from tests.unit.pipeline.enhancers.llm_server import (
    KEY,
    LLMServer,
    answers,
    closed_port_url,
    llm_server,
    provider_at,
    says,
)


def test_first_provider_that_answers_is_used(server: LLMServer) -> None:
    with llm_server() as second, provider_at(server.base_url, "a") as a, provider_at(second.base_url, "b") as b:
        response = PromptEnhancer([a, b]).enhance("a fox")

        assert (response.content, response.provider, response.fallback_used) == ("a better prompt", "a", False)
        assert second.requests == []


def test_retryable_failures_fall_to_the_next_in_order(server: LLMServer) -> None:
    with llm_server() as busy, provider_at(closed_port_url(), "a") as a, provider_at(busy.base_url, "b") as b:
        busy.answer = answers(429, {})
        with provider_at(server.base_url, "c") as c:
            response = PromptEnhancer([a, b, c]).enhance("a fox")

        assert (response.provider, response.fallback_used) == ("c", True)
        assert len(busy.requests) == len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401])
def test_refusal_does_not_fall_to_the_next(server: LLMServer, status: int) -> None:
    with llm_server() as first, provider_at(first.base_url, "a") as a, provider_at(server.base_url, "b") as b:
        first.answer = answers(status, {})
        with pytest.raises(RefusedError):
            PromptEnhancer([a, b]).enhance("a fox")

    assert server.requests == []


def test_when_all_fail_every_reason_is_said(server: LLMServer) -> None:
    server.answer = answers(500, {})
    with provider_at(closed_port_url(), "a") as a, provider_at(server.base_url, "b") as b:
        with pytest.raises(RetryableError, match=r"a \(.*cannot be reached.*; provider b \(.*status 500") as caught:
            PromptEnhancer([a, b]).enhance("a fox")

    assert caught.value.code == "enhance_unavailable"
    assert KEY not in str(caught.value)


def test_registered_priority_is_the_order(server: LLMServer) -> None:
    server.answer = answers(500, {})
    names = []
    with provider_at(server.base_url, "middle") as middle:
        enhancer = PromptEnhancer([middle])
        with provider_at(server.base_url, "first") as first, provider_at(server.base_url, "last") as last:
            enhancer.register_provider(last, priority=-1)
            enhancer.register_provider(first, priority=0)
            with pytest.raises(RetryableError) as caught:
                enhancer.enhance("a fox")
    names = [part.split()[1] for part in str(caught.value).split("; ")]
    assert names == ["first", "middle", "last"]


def test_a_stop_is_looked_for_before_each_provider(server: LLMServer) -> None:
    def check() -> None:
        raise StoppedError("cancelled")

    with provider_at(server.base_url) as provider, pytest.raises(StoppedError):
        PromptEnhancer([provider]).enhance("a fox", check=check)

    assert server.requests == []


@pytest.mark.parametrize(
    ("answer", "prompt"),
    [
        ('"A fox runs."', "A fox runs."),
        ("A fox\n\nruns.\r\n", "A fox runs."),
        ("A\0 fox\x07\u2028 runs", "A fox runs"),
        ("👩‍🚀 שלום \u200f ok", "👩‍🚀 שלום \u200f ok"),
        ("a \ud800 b", "a ? b"),
    ],
)
def test_answers_are_cleaned(server: LLMServer, answer: str, prompt: str) -> None:
    server.answer = says(answer)
    with provider_at(server.base_url) as provider:
        assert PromptEnhancer([provider]).enhance("a fox").content == prompt


@pytest.mark.parametrize("answer", ["x" * (MAX_PROMPT_CHARACTERS + 1), "\0\0", '" "'])
def test_an_answer_that_no_prompt_can_be_is_retryable(server: LLMServer, answer: str) -> None:
    server.answer = says(answer)
    with provider_at(server.base_url) as provider, pytest.raises(RetryableError, match="characters"):
        PromptEnhancer([provider]).enhance("a fox")


def test_operations_send_their_system_prompt(server: LLMServer) -> None:
    with provider_at(server.base_url) as provider:
        PromptEnhancer([provider]).enhance("a fox")
        PromptEnhancer([provider]).auto_extend("a fox")

    sent = [asked["body"]["messages"][0]["content"] for asked in server.requests]
    assert sent == [SystemPrompts().get(Operation.ENHANCE), SystemPrompts().get(Operation.AUTO_EXTEND)]
    assert all(asked["body"]["messages"][1]["content"] == "a fox" for asked in server.requests)


def test_system_prompt_folder_is_read_again_when_a_file_changes(tmp_path: Path) -> None:
    prompts = SystemPrompts(tmp_path)
    shipped = prompts.get(Operation.ENHANCE)
    path = tmp_path / "enhance.txt"

    path.write_text("first", "utf-8")
    assert prompts.get(Operation.ENHANCE) == "first"
    path.write_text("other", "utf-8")
    os.utime(path, ns=(1, 1))
    assert prompts.get(Operation.ENHANCE) == "other"
    path.unlink()
    assert prompts.get(Operation.ENHANCE) == shipped


@pytest.mark.parametrize("content", [b"", b"  \n", b"\xff\xfe\xff"])
def test_unusable_system_prompt_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rewrite.txt").write_bytes(content)

    with pytest.raises(RefusedError, match=r"rewrite\.txt"):
        SystemPrompts(tmp_path).get(Operation.REWRITE)


def test_rewrite_strips_marks_and_repetitions(server: LLMServer) -> None:
    server.answer = says("1. A fox at dawn\n\n- A fox at night\n* A fox at night\n2) 3 foxes\n• A fifth")
    with provider_at(server.base_url) as provider:
        result = build_rewrite(PromptEnhancer([provider]), "a fox", RewriteOptions(count=3, temperature=1.2))

    assert result.alternatives == ("A fox at dawn", "A fox at night", "3 foxes")
    assert (result.seed_prompt, result.provider, result.fallback_used) == ("a fox", "local", False)
    assert server.requests[0]["body"]["temperature"] == 1.2


@pytest.mark.parametrize("seed", ["", "  "])
def test_rewrite_of_nothing_is_an_error(server: LLMServer, seed: str) -> None:
    with provider_at(server.base_url) as provider, pytest.raises(ValueError, match="seed_prompt"):
        build_rewrite(PromptEnhancer([provider]), seed)


def test_known_names_have_their_keys_and_urls() -> None:
    for name, known in KNOWN_PROVIDERS.items():
        provider = make_provider(name)
        assert (provider.base_url, provider.key_variable) == (known.base_url, known.key_variable)
        assert provider.key_required


def test_own_server_with_url_and_model() -> None:
    provider = make_provider("my-box=http://127.0.0.1:8000/v1#llama-3")

    assert (provider.name, provider.base_url, provider.model) == ("my-box", "http://127.0.0.1:8000/v1", "llama-3")
    assert (provider.key_variable, provider.key_required) == ("VGEN_ENHANCE_KEY_MY_BOX", False)


@pytest.mark.parametrize("entry", ["nobody", "", "=http://x/v1", "a b=http://x", "box=ftp://x", "box=http://"])
def test_wrong_entries_name_the_setting(entry: str) -> None:
    with pytest.raises(SettingsError, match="VGEN_ENHANCE_PROVIDERS"):
        make_provider(entry)


def test_no_provider_names_the_setting() -> None:
    with pytest.raises(RefusedError, match="VGEN_ENHANCE_PROVIDERS"):
        PromptEnhancer.from_settings(EnhanceSettings())
