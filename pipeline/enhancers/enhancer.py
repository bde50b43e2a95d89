"""Asks providers in order of priority, the next one only after an error that may pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.enhancers.base import LLMMessage, LLMProvider, LLMRequest, LLMResponse
from pipeline.enhancers.chat_answer import UnusableAnswerError
from pipeline.enhancers.cleaning import MAX_PROMPT_CHARACTERS, alternatives_in, prompt_in, window_in
from pipeline.enhancers.providers import make_provider
from pipeline.enhancers.system_prompts import Operation, SystemPrompts
from pipeline.errors import RefusedError, RetryableError
from pipeline.settings import EnhanceSettings

__all__ = ["MAX_PROMPT_CHARACTERS", "PromptEnhancer"]


class PromptEnhancer:
    """Enhances, extends and rewrites prompts with the first provider that answers."""

    def __init__(
        self,
        providers: Sequence[LLMProvider],
        settings: EnhanceSettings | None = None,
        *,
        system_prompts: SystemPrompts | None = None,
    ) -> None:
        if not providers:
            raise RefusedError(
                "enhancement was requested, but VGEN_ENHANCE_PROVIDERS names no provider", code="enhance_not_configured"
            )
        self.settings = settings or EnhanceSettings()
        self.system_prompts = system_prompts or SystemPrompts(self.settings.system_prompt_dir)
        self._providers = list(providers)

    @classmethod
    def from_settings(cls, settings: EnhanceSettings) -> PromptEnhancer:
        """Raises RefusedError (code ``enhance_not_configured``) without providers, SettingsError for a wrong one."""
        return cls([make_provider(entry) for entry in settings.providers], settings)

    def register_provider(self, provider: LLMProvider, *, priority: int = -1) -> None:
        """Add a provider: 0 asks it first, -1 last, n as the n-th."""
        self._providers.insert(len(self._providers) if priority < 0 else priority, provider)

    def reload_system_prompts(self) -> None:
        """Read the system prompts again at the next request, whether their files changed or not."""
        self.system_prompts.reload()

    def enhance(self, prompt: str, *, check: Callable[[], None] = lambda: None) -> LLMResponse:
        """A richer prompt; errors as in ``ask``."""
        return self.ask(Operation.ENHANCE, prompt, check=check)

    def auto_extend(self, prompt: str, *, check: Callable[[], None] = lambda: None) -> LLMResponse:
        """The prompt of the segment after the one that ``prompt`` made; errors as in ``ask``."""
        return self.ask(Operation.AUTO_EXTEND, prompt, check=check)

    def ask(
        self,
        operation: Operation,
        prompt: str,
        *,
        seed_prompt: str | None = None,
        temperature: float | None = None,
        one_line: bool = True,
        count: int | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> LLMResponse:
        """Ask the providers in turn; ``latency_ms`` counts from the first of them, ``check`` is called before each.

        The answer's ``content`` is one prompt, or without ``one_line`` several alternatives, one a line, or exactly
        ``count`` prompts of successive segments, one a line. ``seed_prompt`` is what a person wrote, where ``prompt``
        says more than that.

        Raises:
            RetryableError: code ``enhance_unavailable``; every provider failed in a way that may pass.
            RefusedError: a provider refused the request (wrong key, unknown model); the others are not asked.
        """
        request = LLMRequest(
            messages=(LLMMessage("system", self.system_prompts.get(operation)), LLMMessage("user", prompt)),
            model=self.settings.model,
            max_tokens=self.settings.max_tokens,
            temperature=self.settings.temperature if temperature is None else temperature,
            timeout_s=self.settings.timeout_s,
        )
        started, failures = time.monotonic(), []
        for position, provider in enumerate(self._providers):
            check()
            try:
                response = provider.complete(request)
                original = prompt if seed_prompt is None else seed_prompt
                content = self._content(response, original, one_line=one_line, count=count)
            except RetryableError as error:
                failures.append(str(error))
                continue
            latency_ms = round((time.monotonic() - started) * 1000)
            return replace(response, content=content, latency_ms=latency_ms, fallback_used=position > 0)
        raise RetryableError("; ".join(failures), code="enhance_unavailable")

    def close(self) -> None:
        """Close the providers' connections."""
        for provider in self._providers:
            provider.close()

    @staticmethod
    def _content(response: LLMResponse, original: str, *, one_line: bool, count: int | None) -> str:
        try:
            if count is not None:
                return "\n".join(window_in(response.content, count, original=original))
            if one_line:
                return prompt_in(response.content, original=original)
            return "\n".join(alternatives_in(response.content, original=original))
        except UnusableAnswerError as error:
            raise RetryableError(f"provider {response.provider}: {error}", code="enhance_unavailable") from None
