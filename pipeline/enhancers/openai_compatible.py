"""Asks any server that speaks OpenAI's chat completions."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from pipeline.enhancers.base import LLMRequest, LLMResponse
from pipeline.errors import RefusedError, RetryableError, StageError

if TYPE_CHECKING:
    from openai import OpenAI

MAX_BODY_BYTES = 1024 * 1024
"""A few hundred tokens are some kilobytes; a server that sends more than this is broken, and memory is not for it."""
MAX_DETAIL = 200


class OpenAICompatibleProvider:
    """A server at ``base_url``. Its key is read from the environment at each request, so that it can be changed.

    ``key_required`` is false for servers of one's own, which are asked without a key when there is none.
    """

    def __init__(
        self, name: str, base_url: str, *, key_variable: str, key_required: bool, model: str | None = None
    ) -> None:
        self.name = name
        self.base_url = base_url
        self.key_variable = key_variable
        self.key_required = key_required
        self.model = model
        """Asked for instead of the request's model."""

    def complete(self, request: LLMRequest) -> LLMResponse:
        """See ``LLMProvider.complete``."""
        import httpx2  # noqa: PLC0415  (what openai's client sends with)
        import openai  # noqa: PLC0415  (a second of imports, needed only where prompts are enhanced)

        key = os.environ.get(self.key_variable, "").strip()
        if not key and self.key_required:
            raise RefusedError(f"provider {self.name}: {self.key_variable} is not set", code="enhance_key_missing")
        if not (key.isascii() and key.isprintable()):
            raise RefusedError(
                f"provider {self.name}: {self.key_variable} holds characters that no header can",
                code="enhance_key_invalid",
            )
        model = self.model or request.model
        started = time.monotonic()
        try:
            body = self._post(request, model, key, deadline=started + request.timeout_s)
        except (openai.APITimeoutError, httpx2.TimeoutException):
            raise self._unavailable(f"no answer within {request.timeout_s:g} s") from None
        except openai.APIConnectionError as error:
            raise self._unavailable(f"cannot be reached: {type(error.__cause__ or error).__name__}") from None
        except openai.APIStatusError as error:
            raise self._status_error(error.status_code, _detail(error.body), key) from None
        except (openai.OpenAIError, httpx2.HTTPError) as error:  # the body is read outside openai's own wrapping
            raise self._unavailable(type(error).__name__) from None
        content = self._content(body)
        return LLMResponse(content, self.name, model, round((time.monotonic() - started) * 1000))

    def close(self) -> None:
        """See ``LLMProvider.close``."""
        if "_client" in self.__dict__:
            self._client.close()
            del self.__dict__["_client"]

    @cached_property
    def _client(self) -> OpenAI:
        from openai import OpenAI  # noqa: PLC0415

        return OpenAI(base_url=self.base_url, api_key="unset", max_retries=0)

    def _post(self, request: LLMRequest, model: str, key: str, *, deadline: float) -> bytes:
        """The body of the answer. The client's timeout bounds each read; the deadline bounds a server that drips."""
        from openai import Omit  # noqa: PLC0415

        # The client would send OpenAI's account names, if the environment has them, to any server.
        headers: dict[str, str | Omit] = {
            "Authorization": f"Bearer {key}" if key else Omit(),
            "OpenAI-Organization": Omit(),
            "OpenAI-Project": Omit(),
        }
        with self._client.chat.completions.with_streaming_response.create(
            model=model,
            messages=cast("Any", [asdict(message) for message in request.messages]),
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            timeout=request.timeout_s,
            extra_headers=headers,
        ) as response:
            body = bytearray()
            for block in response.iter_bytes():
                body += block
                if len(body) > MAX_BODY_BYTES:
                    raise self._unavailable(f"answer is longer than {MAX_BODY_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise self._unavailable(f"no whole answer within {request.timeout_s:g} s")
        return bytes(body)

    def _content(self, body: bytes) -> str:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            raise self._unavailable("answer is not JSON") from None
        try:
            content = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise self._unavailable("answer has no choices[0].message.content") from None
        if not isinstance(content, str) or not content.strip():
            raise self._unavailable("answer is empty")
        return content

    def _status_error(self, status: int, detail: str, key: str) -> StageError:
        if key:
            detail = detail.replace(key, "***")
        shown = f"status {status}" + (f": {detail[:MAX_DETAIL]}" if detail else "")
        if status in (408, 429) or status >= 500:
            return self._unavailable(shown)
        return RefusedError(f"provider {self._where} refused: {shown}", code="enhance_refused")

    def _unavailable(self, what: str) -> RetryableError:
        return RetryableError(f"provider {self._where}: {what}", code="enhance_unavailable")

    @property
    def _where(self) -> str:
        """Name, host and port; what else the URL holds (a password, a token) is nobody's business."""
        parts = urlsplit(self.base_url)
        return f"{self.name} ({parts.hostname}{f':{parts.port}' if parts.port else ''})"


def _detail(body: Any) -> str:
    """The server's own words, if it answered an error as OpenAI does. 401 answers may quote a part of the key."""
    message = body.get("message") if isinstance(body, dict) else None
    if not isinstance(message, str) or "key" in message.lower():
        return ""
    return " ".join(message.split())
