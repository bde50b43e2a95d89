"""Asks any server that speaks OpenAI's chat completions."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from pipeline.enhancers.base import LLMRequest, LLMResponse
from pipeline.enhancers.chat_answer import CutAnswerError, UnusableAnswerError, text_of
from pipeline.enhancers.request_parameters import Parameters
from pipeline.errors import RefusedError, RetryableError, StageError

if TYPE_CHECKING:
    from openai import OpenAI

MAX_DETAIL = 200
MAX_REQUESTS = 6
"""The most requests for one answer: each parameter that a model may refuse costs one, the first time."""
MORE_TOKENS = 4
"""A cut answer is asked for once more with so many times the limit: a model that thinks spends most of it on that."""

_THINKING_MODELS = re.compile(r"(^|/)(gpt-oss|gpt-5|o\d)")
"""Models that take ``reasoning_effort`` where a provider does."""
_FILTERED = frozenset({"content_filter", "content_policy_violation"})


class OpenAICompatibleProvider:
    """A server at ``base_url``. Its key is read from the environment at each request, so that it can be changed.

    ``key_required`` is false for servers of one's own, which are asked without a key when there is none.
    ``model_names`` says what this server calls the models of the setting; ``model`` is asked for instead of it.
    ``reasoning_effort`` is sent for models that think, where the service is known to take it.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        key_variable: str,
        key_required: bool,
        model: str | None = None,
        model_names: Mapping[str, str] | None = None,
        reasoning_effort: str | None = None,
    ) -> None:
        self.name = name
        self.base_url = base_url
        self.key_variable = key_variable
        self.key_required = key_required
        self.model = model
        self.model_names = model_names or {}
        self._reasoning_effort = reasoning_effort
        self._parameters: dict[str, Parameters] = {}
        """Of each model that has answered: those it takes."""

    def complete(self, request: LLMRequest) -> LLMResponse:
        """See ``LLMProvider.complete``."""
        key = self._key()
        started = time.monotonic()
        model = self.model or self.model_names.get(request.model, request.model)
        request = replace(request, model=model)
        try:
            try:
                content = self._ask(request, key)
            except CutAnswerError:
                content = self._ask(replace(request, max_tokens=request.max_tokens * MORE_TOKENS), key)
        except UnusableAnswerError as error:
            reason = str(error).replace(key, "***") if key else str(error)
            raise self._unavailable(reason) from None
        return LLMResponse(content, self.name, model, round((time.monotonic() - started) * 1000))

    def close(self) -> None:
        """See ``LLMProvider.close``."""
        if "_client" in self.__dict__:
            self._client.close()
            del self.__dict__["_client"]

    @cached_property
    def _client(self) -> OpenAI:
        from openai import OpenAI  # noqa: PLC0415  (a second of imports, needed only where prompts are enhanced)

        from pipeline.enhancers.bounded_http import BoundedClient  # noqa: PLC0415

        return OpenAI(base_url=self.base_url, api_key="unset", max_retries=0, http_client=BoundedClient())

    def _key(self) -> str:
        key = os.environ.get(self.key_variable, "").strip()
        if not key and self.key_required:
            raise RefusedError(f"provider {self.name}: {self.key_variable} is not set", code="enhance_key_missing")
        if not (key.isascii() and key.isprintable()):
            raise RefusedError(
                f"provider {self.name}: {self.key_variable} holds characters that no header can",
                code="enhance_key_invalid",
            )
        return key

    def _ask(self, request: LLMRequest, key: str) -> str:
        """The text of the answer; asks again, without what the model does not take, where it refuses a parameter."""
        effort = self._reasoning_effort if _THINKING_MODELS.search(request.model) else None
        parameters = self._parameters.get(request.model, Parameters(reasoning_effort=effort))
        for _ in range(MAX_REQUESTS):
            fields = parameters.body(request)
            status, body = self._post(request, fields, key)
            if status < 300:
                self._parameters[request.model] = parameters
                return text_of(body, token_limit=fields.get(parameters.limit_name or ""))
            error = _error_in(body)
            accepted = parameters.without_refused(request, error) if status in (400, 422) else None
            if accepted is None:
                raise self._status_error(status, error, key) from None
            parameters = accepted
        raise self._unavailable(f"refused {MAX_REQUESTS} requests with different parameters")

    def _post(self, request: LLMRequest, fields: dict[str, Any], key: str) -> tuple[int, bytes]:
        """Status and body of the answer; ``timeout_s`` bounds all of it, as ``MAX_ANSWER_BYTES`` does."""
        import httpx2  # noqa: PLC0415  (what openai's client sends with)
        import openai  # noqa: PLC0415

        from pipeline.enhancers.bounded_http import AnswerError, limited  # noqa: PLC0415

        # The client would send OpenAI's account names, if the environment has them, to any server.
        headers: dict[str, str | openai.Omit] = {
            "Authorization": f"Bearer {key}" if key else openai.Omit(),
            "OpenAI-Organization": openai.Omit(),
            "OpenAI-Project": openai.Omit(),
        }
        try:
            with limited(request.timeout_s):
                answer = self._client.chat.completions.with_raw_response.create(
                    model=request.model,
                    messages=cast("Any", [asdict(message) for message in request.messages]),
                    timeout=request.timeout_s,
                    extra_headers=headers,
                    extra_body=fields,
                )
        except openai.APIStatusError as error:
            return error.status_code, error.response.content
        except AnswerError as error:
            raise self._unavailable(str(error)) from None
        except (openai.APITimeoutError, httpx2.TimeoutException):
            raise self._unavailable(f"no answer within {request.timeout_s:g} s") from None
        except openai.APIConnectionError as error:
            raise self._unavailable(f"cannot be reached: {type(error.__cause__ or error).__name__}") from None
        except (openai.OpenAIError, httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise self._unavailable(type(error).__name__) from None
        return answer.status_code, answer.content

    def _status_error(self, status: int, error: Any, key: str) -> StageError:
        detail = _detail(error)
        if key:
            detail = detail.replace(key, "***")
        description = f"status {status}" + (f": {detail[:MAX_DETAIL]}" if detail else "")
        filtered = isinstance(error, dict) and error.get("code") in _FILTERED
        if status in (408, 429) or status >= 500 or filtered:
            return self._unavailable(description)
        return RefusedError(f"provider {self._where} refused: {description}", code="enhance_refused")

    def _unavailable(self, problem: str) -> RetryableError:
        return RetryableError(f"provider {self._where}: {problem}", code="enhance_unavailable")

    @property
    def _where(self) -> str:
        """Name, host and port; what else the URL holds (a password, a token) is nobody's business."""
        parts = urlsplit(self.base_url)
        return f"{self.name} ({parts.hostname}{f':{parts.port}' if parts.port else ''})"


def _error_in(body: bytes) -> Any:
    """Return an error body's ``error`` as OpenAI sends it, else the whole body; text where it is not JSON."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")
    return answer.get("error", answer) if isinstance(answer, dict) else answer


def _detail(error: Any) -> str:
    """The server's own words, if it answered an error as OpenAI does. 401 answers may quote a part of the key."""
    message = error.get("message") if isinstance(error, dict) else None
    if not isinstance(message, str) or "key" in message.lower():
        return ""
    return " ".join("".join(mark if mark.isprintable() else " " for mark in message).split())
