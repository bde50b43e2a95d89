"""One provider against a real server that fails in every way."""

from __future__ import annotations

import pytest

from pipeline.enhancers.base import LLMMessage, LLMRequest
from pipeline.errors import RefusedError, RetryableError, StageError
from tests.unit.pipeline.enhancers.llm_server import (
    KEY,
    KEY_VARIABLE,
    Answer,
    LLMServer,
    answers,
    breaks_off,
    closed_port_url,
    drips,
    hangs_up,
    provider_at,
    says,
    waits,
)


def _request(timeout_s: float = 10.0) -> LLMRequest:
    messages = (LLMMessage("system", "be brief"), LLMMessage("user", "a fox"))
    return LLMRequest(messages, "some-model", max_tokens=256, temperature=0.7, timeout_s=timeout_s)


def test_request_and_answer(server: LLMServer) -> None:
    with provider_at(server.base_url) as provider:
        response = provider.complete(_request())

    assert (response.content, response.provider, response.model) == ("a better prompt", "local", "some-model")
    assert response.latency_ms >= 0
    (asked,) = server.requests
    assert asked["path"] == "/v1/chat/completions"
    assert asked["headers"]["authorization"] == f"Bearer {KEY}"
    assert asked["body"] == {
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a fox"}],
        "model": "some-model",
        "max_tokens": 256,
        "temperature": 0.7,
    }


ERROR = {"error": {"message": "no luck today", "type": "x"}}


@pytest.mark.parametrize(
    ("answer", "says_what"),
    [
        (answers(429, ERROR), "status 429: no luck today"),
        (answers(500, ERROR), "status 500"),
        (answers(503, b"<html>"), "status 503"),
        (answers(408, ERROR), "status 408"),
        (answers(200, b"<html>it works</html>"), "not JSON"),
        (answers(200, b"[" * 100_000), "not JSON"),
        (answers(200, b""), "not JSON"),
        (answers(200, b"[]"), "no choices"),
        (answers(200, {"choices": []}), "no choices"),
        (answers(200, {"choices": [{"message": None}]}), "no choices"),
        (says(""), "empty"),
        (says(" \n "), "empty"),
        (says(None), "empty"),
        (says(["a", "b"]), "empty"),
        (says("x" * 10_000_000), "longer than"),
        (waits, "no answer within 0.5 s"),
        (drips, "no complete answer within 0.5 s"),
        (breaks_off, "Error"),
        (hangs_up, "Error"),
    ],
)
def test_failures_that_may_pass_are_retryable_and_asked_once(server: LLMServer, answer: Answer, says_what: str) -> None:
    server.answer = answer
    with provider_at(server.base_url) as provider, pytest.raises(RetryableError) as caught:
        provider.complete(_request(0.5 if answer in (waits, drips) else 10))

    assert caught.value.code == "enhance_unavailable"
    assert says_what in str(caught.value)
    assert "local (127.0.0.1:" in str(caught.value)
    assert len(server.requests) == 1


def test_connection_refused_is_retryable() -> None:
    with provider_at(closed_port_url()) as provider, pytest.raises(RetryableError, match="cannot be reached"):
        provider.complete(_request())


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_other_client_errors_are_refused(server: LLMServer, status: int) -> None:
    server.answer = answers(status, ERROR)
    with provider_at(server.base_url) as provider, pytest.raises(RefusedError, match=f"status {status}") as caught:
        provider.complete(_request())

    assert caught.value.code == "enhance_refused"
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_no_message_holds_the_key(server: LLMServer, status: int) -> None:
    shown = KEY[:4] + "***" + KEY[-6:]
    for message in (f"Incorrect API key provided: {shown}", f"denied {KEY} for you", f"{KEY}"):
        server.answer = answers(status, {"error": {"message": message}})
        url = server.base_url.replace("http://", "http://user:hunter2@")
        with provider_at(url) as provider, pytest.raises(StageError) as caught:
            provider.complete(_request())

        for secret in (KEY, shown, "hunter2"):
            assert secret not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_missing_key_is_refused_before_anything_is_sent(server: LLMServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE)
    with provider_at(server.base_url) as provider, pytest.raises(RefusedError, match=KEY_VARIABLE) as caught:
        provider.complete(_request())

    assert caught.value.code == "enhance_key_missing"
    assert server.requests == []


@pytest.mark.parametrize("key", ["ключ", "a\nb"])
def test_key_that_no_header_can_hold_is_refused(server: LLMServer, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key)
    with provider_at(server.base_url) as provider, pytest.raises(RefusedError, match=KEY_VARIABLE) as caught:
        provider.complete(_request())

    assert key not in str(caught.value)


def test_own_server_without_key_gets_no_credentials(server: LLMServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-service")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-mine")
    with provider_at(server.base_url, key_required=False) as provider:
        provider.complete(_request())

    sent = str(server.requests[0]["headers"])
    assert "authorization" not in server.requests[0]["headers"]
    assert "of-mine" not in sent
    assert "sk-of-another-service" not in sent


def test_a_changed_key_is_used_at_once(server: LLMServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with provider_at(server.base_url) as provider:
        provider.complete(_request())
        monkeypatch.setenv(KEY_VARIABLE, "sk-next")
        provider.complete(_request())

    assert [asked["headers"]["authorization"] for asked in server.requests] == [f"Bearer {KEY}", "Bearer sk-next"]
