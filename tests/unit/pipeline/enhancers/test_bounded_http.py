"""Servers that send too much, too slowly, or elsewhere; parameters that models do not take."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from typing import Any

import pytest

from pipeline.enhancers.base import LLMMessage, LLMRequest
from pipeline.enhancers.openai_compatible import MAX_REQUESTS, MORE_TOKENS
from pipeline.enhancers.providers import make_provider
from pipeline.errors import RefusedError, RetryableError
from pipeline.settings import EnhanceSettings
from tests.unit.pipeline.enhancers.llm_server import Answer, LLMServer, answers, llm_server, provider_at, says

MEBIBYTE = 1024 * 1024


def _request(timeout_s: float = 10.0, max_tokens: int = 2048) -> LLMRequest:
    return LLMRequest((LLMMessage("user", "a fox"),), "some-model", max_tokens, 0.7, timeout_s)


def _sends(*blocks: bytes, pause_s: float = 0.0, for_ever: bool = False) -> Answer:
    """Writes raw bytes to the connection, then closes it."""

    def answer(handler: Any) -> None:
        handler.close_connection = True
        while True:
            for block in blocks:
                handler.wfile.write(block)
                if handler.server.released.wait(pause_s):
                    return
            if not for_ever:
                return

    return answer


def _drips(before: bytes, status: int = 200) -> Answer:
    """Sends ``before`` after the status line, and then a byte now and then."""

    def answer(handler: Any) -> None:
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 %d X\r\n" % status + before)
        while not handler.server.released.wait(0.02):
            handler.wfile.write(b"x")

    return answer


def _compressed(body: bytes, encoding: str, status: int = 200) -> Answer:
    head = f"HTTP/1.1 {status} X\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n"
    return _sends(f"{head}Connection: close\r\n\r\n".encode() + body)


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (_drips(b"X: "), "answer within 0.4 s"),
        (_drips(b"X: ", 500), "answer within 0.4 s"),
        (_drips(b"Content-Length: 100000\r\n\r\n"), "no complete answer within 0.4 s"),
        (_drips(b"Content-Length: 100000\r\n\r\n", 401), "no complete answer within 0.4 s"),
        (_drips(b"Content-Length: 100000\r\n\r\n", 500), "no complete answer within 0.4 s"),
        (_drips(b"Transfer-Encoding: chunked\r\n\r\n"), "no complete answer within 0.4 s"),
        (_sends(b"HTTP/1.1 100 Continue\r\n\r\n", pause_s=0.02, for_ever=True), "answer within 0.4 s"),
    ],
)
def test_a_deadline_holds_for_all_of_the_answer(server: LLMServer, answer: Answer, reason: str) -> None:
    server.answer = answer
    with provider_at(server.base_url) as provider, pytest.raises(RetryableError, match=reason) as caught:
        provider.complete(_request(0.4))

    assert caught.value.code == "enhance_unavailable"


@pytest.mark.parametrize(
    "answer",
    [
        _sends(HEAD + b"X: " + b"x" * 3 * MEBIBYTE),
        _sends(HEAD, *[b"X%d: %s\r\n" % (number, b"x" * 60_000) for number in range(40)]),
        _sends(b"HTTP/1.1 102 Processing\r\n\r\n", for_ever=True),
        _sends(HEAD + b"Content-Length: 999999999\r\n\r\n", *[b" " * MEBIBYTE] * 3),
        _sends(HEAD + b"\r\n", b" " * MEBIBYTE, for_ever=True),
        _sends(b"HTTP/1.1 401 No\r\n\r\n", b" " * MEBIBYTE, for_ever=True),
        _sends(b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000, for_ever=True),
        _compressed(gzip.compress(b" " * 50 * MEBIBYTE), "gzip"),
        _compressed(gzip.compress(b" " * 50 * MEBIBYTE), "gzip", 400),
        _compressed(zlib.compress(b" " * 50 * MEBIBYTE), "deflate", 500),
        _compressed(b"anything", "zstd"),
        _compressed(b"anything", "br, gzip"),
        _compressed(b"not gzip", "gzip"),
        _compressed(gzip.compress(b"{}" * 100)[:20], "gzip"),
    ],
)
def test_no_answer_takes_more_than_its_bytes(server: LLMServer, answer: Answer) -> None:
    server.answer = answer
    with provider_at(server.base_url) as provider, pytest.raises(RetryableError) as caught:
        provider.complete(_request())

    assert caught.value.code == "enhance_unavailable"
    assert len(server.requests) == 1


def test_a_server_that_compresses_unasked_is_read(server: LLMServer) -> None:
    body = json.dumps({"choices": [{"message": {"content": "A fox."}}]}).encode()
    with provider_at(server.base_url) as provider:
        for packed, encoding in ((gzip.compress(body), "gzip"), (zlib.compress(body), "deflate")):
            server.answer = _compressed(packed, encoding)
            assert provider.complete(_request()).content == "A fox."

    assert {asked["headers"]["accept-encoding"] for asked in server.requests} == {"identity"}


def _redirects(status: int, location: str) -> Answer:
    def answer(handler: Any) -> None:
        if handler.path.startswith("/elsewhere"):
            says("A fox.")(handler)
            return
        handler.send_response(status)
        handler.send_header("Location", location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_neither_key_nor_prompt_follows_a_redirect_to_another_server(server: LLMServer, status: int) -> None:
    with llm_server() as other, provider_at(server.base_url) as provider:
        places = (
            other.base_url,
            other.base_url.replace("127.0.0.1", "localhost"),
            f"//127.0.0.1:{other.server_port}/v1",
        )
        for place in (*places, server.base_url.replace("127.0.0.1", "localhost"), "http://[", "ftp://127.0.0.1/"):
            server.answer = _redirects(status, place)
            with pytest.raises(RetryableError):
                provider.complete(_request())

        assert other.requests == []


def test_a_redirect_on_the_same_server_keeps_what_was_asked(server: LLMServer) -> None:
    with provider_at(server.base_url) as provider:
        for status in (307, 308):
            server.answer = _redirects(status, "/elsewhere/chat/completions")
            assert provider.complete(_request()).content == "A fox."
        server.answer = _redirects(307, "/v1/again")
        with pytest.raises(RetryableError, match="redirects"):
            provider.complete(_request())

    assert server.requests[0]["body"] == server.requests[1]["body"]


def test_a_proxy_of_the_environment_is_asked_within_the_same_limits(
    server: LLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    with provider_at("http://llm.invalid/v1") as provider:
        assert provider.complete(_request()).content == "a better prompt"
        server.answer = _drips(b"X: ")
        with pytest.raises(RetryableError, match=r"answer within 0\.4 s"):
            provider.complete(_request(0.4))


def _model(*refused: str, error: Any, most_tokens: int | None = None) -> Answer:
    """Refuses requests with the parameters named, or with a higher limit of tokens; answers others."""

    def answer(handler: Any) -> None:
        sent = handler.server.requests[-1]["body"]
        limit = sent.get("max_tokens", sent.get("max_completion_tokens", 0))
        named = next((name for name in refused if name in sent), None)
        if named or (most_tokens is not None and limit > most_tokens):
            answers(400 if "detail" not in error("x") else 422, error(named or "max_tokens"))(handler)
        else:
            says("A fox.")(handler)

    return answer


def _openai(name: str) -> dict[str, Any]:
    advice = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
    message = f"Unsupported parameter: '{name}' is not supported with this model.{advice}"
    return {"error": {"message": message, "param": name, "code": "unsupported_parameter"}}


def _openai_value(name: str) -> dict[str, Any]:
    message = (
        f"Unsupported value: '{name}' does not support 0.7 with this model. Only the default (1) value is supported."
    )
    return {"error": {"message": message, "param": name, "code": "unsupported_value"}}


def _without_param(name: str) -> dict[str, Any]:
    return {"error": {"message": f"Unrecognized request argument supplied: {name}"}}


def _fastapi(name: str) -> dict[str, Any]:
    return {"detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}]}


def _bare(name: str) -> dict[str, Any]:
    return {"message": f"parameter {name} is not supported by this model"}


@pytest.mark.parametrize("error", [_openai, _openai_value, _without_param, _fastapi, _bare])
@pytest.mark.parametrize(
    ("refused", "left"),
    [
        (["max_tokens"], {"max_completion_tokens", "temperature"}),
        (["temperature"], {"max_tokens"}),
        (["max_tokens", "temperature"], {"max_completion_tokens"}),
        (["max_tokens", "max_completion_tokens"], {"temperature"}),
        (["temperature", "max_tokens", "max_completion_tokens"], set()),
    ],
)
def test_parameters_that_a_model_does_not_take_are_left_out_from_then_on(
    server: LLMServer, error: Any, refused: list[str], left: set[str]
) -> None:
    server.answer = _model(*refused, error=error)
    with provider_at(server.base_url) as provider:
        assert provider.complete(_request()).content == "A fox."
        assert len(server.requests) == len(refused) + 1
        assert provider.complete(_request()).content == "A fox."

    assert len(server.requests) == len(refused) + 2
    assert server.requests[-1]["body"].keys() - {"messages", "model"} == left


def test_what_is_learnt_holds_for_one_model_of_one_server(server: LLMServer) -> None:
    server.answer = _model("temperature", error=_openai)
    with llm_server() as other, provider_at(server.base_url) as first, provider_at(other.base_url) as second:
        first.complete(_request())
        second.complete(_request())
        server.answer = says("A fox.")
        first.model = "another"
        first.complete(_request())

    assert "temperature" in other.requests[0]["body"]
    assert "temperature" in server.requests[-1]["body"]


NO_ROOM = "This model's maximum context length is 1024 tokens. However, you requested 2348 tokens."
TOO_LARGE = "'max_tokens' or 'max_completion_tokens' is too large: 2048. This model supports at most 512."


@pytest.mark.parametrize("message", [NO_ROOM, TOO_LARGE])
def test_a_small_model_is_asked_for_fewer_tokens(server: LLMServer, message: str) -> None:
    server.answer = _model(most_tokens=512, error=lambda name: {"error": {"message": message, "param": name}})
    with provider_at(server.base_url) as provider:
        assert provider.complete(_request()).content == "A fox."

    assert server.requests[-1]["body"]["max_tokens"] == 512


def test_a_server_that_refuses_whatever_is_sent_is_asked_a_bounded_number_of_times(server: LLMServer) -> None:
    for error in (
        _openai("temperature"),
        _fastapi("temperature"),
        {"error": {"message": NO_ROOM}},
        "max_tokens unknown",
    ):
        server.requests.clear()
        server.answer = answers(400, error)
        with provider_at(server.base_url) as provider, pytest.raises((RefusedError, RetryableError)):
            provider.complete(_request())
        assert len(server.requests) <= MAX_REQUESTS


def test_a_prompt_that_a_service_filters_may_go_to_the_next_provider(server: LLMServer) -> None:
    server.answer = answers(400, {"error": {"message": "filtered", "code": "content_filter"}})
    with provider_at(server.base_url) as provider, pytest.raises(RetryableError, match="filtered"):
        provider.complete(_request())


def _thinks(tokens: int) -> Answer:
    """A model that thinks for so many tokens before it answers with 100 more."""

    def answer(handler: Any) -> None:
        limit = handler.server.requests[-1]["body"]["max_tokens"]
        message: dict[str, Any] = {"content": None, "reasoning_content": "Let me think …"}
        whole = limit >= tokens + 100
        if whole:
            message["content"] = "A fox."
        choice = {"finish_reason": "stop" if whole else "length", "message": message}
        answers(200, {"choices": [choice]})(handler)

    return answer


@pytest.mark.parametrize(("tokens", "requests"), [(0, 1), (1_500, 1), (6_000, 2), (50_000, 2)])
def test_the_default_limit_has_room_for_thinking(server: LLMServer, tokens: int, requests: int) -> None:
    settings = EnhanceSettings()
    server.answer = _thinks(tokens)
    with provider_at(server.base_url) as provider:
        request = _request(max_tokens=settings.max_tokens)
        if tokens > settings.max_tokens * MORE_TOKENS:
            with pytest.raises(RetryableError, match="cut at 8192 tokens"):
                provider.complete(request)
        else:
            assert provider.complete(request).content == "A fox."

    assert len(server.requests) == requests


@pytest.mark.parametrize(
    ("entry", "model", "effort"),
    [
        ("cerebras", "gpt-oss-120b", "low"),
        ("groq", "openai/gpt-oss-120b", "low"),
        ("openai", "gpt-5-mini", "low"),
        ("groq#llama-3.3-70b-versatile", "llama-3.3-70b-versatile", None),
        ("openai#gpt-oss-120b", "gpt-oss-120b", "low"),
        ("own={url}", "gpt-oss-120b", None),
        ("groq={url}", "gpt-oss-120b", None),
    ],
)
def test_the_default_model_has_the_name_that_each_service_gives_it(
    server: LLMServer, monkeypatch: pytest.MonkeyPatch, entry: str, model: str, effort: str | None
) -> None:
    for variable in ("CEREBRAS_API_KEY", "GROQ_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(variable, "sk-test")
    provider = make_provider(entry.format(url=server.base_url))
    provider.base_url = server.base_url  # the service itself cannot be reached here

    response = provider.complete(
        LLMRequest((LLMMessage("user", "a fox"),), EnhanceSettings().model, 2048, 0.7, timeout_s=10)
    )
    provider.close()

    assert response.model == server.requests[0]["body"]["model"] == model
    assert server.requests[0]["body"].get("reasoning_effort") == effort


def test_a_deadline_is_kept_by_each_request_anew(server: LLMServer) -> None:
    with provider_at(server.base_url) as provider:
        for _ in range(3):  # on a connection that was opened under an older deadline
            provider.complete(_request(0.5))
            time.sleep(0.25)
