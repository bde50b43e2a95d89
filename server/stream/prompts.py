"""What happens to a prompt before its segment is made: it is enhanced, extended, rewritten, and screened."""

from __future__ import annotations

import asyncio
import contextvars
import importlib.util
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from pipeline.enhancers import window
from pipeline.enhancers.rewrite import RewriteOptions, build_rewrite
from pipeline.errors import RefusedError, RetryableError, VgenError
from pipeline.settings import Settings
from pipeline.wiring import StageModels
from server.stream.messages import PromptAlternatives
from server.stream.source import SourceError

logger = logging.getLogger(__name__)

_WRITERS = 16
"""Requests to language models that are on their way at once; further ones wait."""
_SCREENERS = 4
"""Prompts that are screened at once."""
T = TypeVar("T")


class PromptDesk(Protocol):
    """Writes and screens prompts."""

    @property
    def can_write(self) -> bool:
        """Return whether prompts can be enhanced, extended and rewritten."""

    async def enhance(self, prompt: str) -> str:
        """Return a richer prompt. Raises SourceError, not fatal."""

    async def extend(self, prompt: str) -> str:
        """Return the prompt of the segment after that of ``prompt``. Raises SourceError, not fatal."""

    async def rewrite(self, prompt: str, count: int, temperature: float | None) -> PromptAlternatives:
        """Return alternatives. Raises SourceError, not fatal."""

    async def write_window(self, idea: str, count: int, temperature: float | None) -> list[str]:
        """Return the prompts of so many segments, one after the other. Raises SourceError, not fatal."""

    async def rewrite_window(self, prompts: Sequence[str], instruction: str, temperature: float | None) -> list[str]:
        """Return as many prompts, changed together as the instruction says. Raises SourceError, not fatal."""

    async def screen(self, prompt: str) -> None:
        """Raises SourceError, not fatal: the prompt is turned down, or cannot be judged and the policy is closed."""

    def close(self) -> None:
        """Give back what it holds."""


class ConfiguredPrompts:
    """The language models and the classifier of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._models = StageModels(settings)
        # Threads of their own: those of the event loop are for the rows, which must not wait for a slow model.
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="vgen-writer")
        self._screeners = ThreadPoolExecutor(_SCREENERS, thread_name_prefix="vgen-screener")

    @property
    def can_write(self) -> bool:
        return bool(self._settings.enhance.providers) and importlib.util.find_spec("openai") is not None

    async def enhance(self, prompt: str) -> str:
        return await self._ask(lambda: str(self._models.enhancer.enhance(prompt).content))

    async def extend(self, prompt: str) -> str:
        return await self._ask(lambda: str(self._models.enhancer.auto_extend(prompt).content))

    async def rewrite(self, prompt: str, count: int, temperature: float | None) -> PromptAlternatives:
        def ask() -> PromptAlternatives:
            result = build_rewrite(self._models.enhancer, prompt, RewriteOptions(count, temperature))
            return PromptAlternatives(
                seed_prompt=result.seed_prompt,
                alternatives=list(result.alternatives),
                provider=result.provider,
                model=result.model,
                latency_ms=result.latency_ms,
            )

        return await self._ask(ask)

    async def write_window(self, idea: str, count: int, temperature: float | None) -> list[str]:
        return await self._ask(lambda: window.write_window(self._models.enhancer, idea, count, temperature=temperature))

    async def rewrite_window(self, prompts: Sequence[str], instruction: str, temperature: float | None) -> list[str]:
        return await self._ask(
            lambda: window.rewrite_window(self._models.enhancer, prompts, instruction, temperature=temperature)
        )

    async def screen(self, prompt: str) -> None:
        await _in(self._screeners, self._screen, prompt)

    def close(self) -> None:
        for threads in (self._writers, self._screeners):
            threads.shutdown(wait=False, cancel_futures=True)
        self._models.close()

    async def _ask(self, ask: Callable[[], T]) -> T:
        try:
            return await _in(self._writers, ask)
        except VgenError as error:
            raise _of_writer(error) from error

    def _screen(self, prompt: str) -> None:
        safety_filter = self._models.safety_filter
        if safety_filter is None:
            return
        from pipeline.safety.result import SafetyDecision  # noqa: PLC0415 - only where there is a classifier

        result = safety_filter.screen(prompt)
        if result.decision is SafetyDecision.BLOCK:
            text = f"prompt: the classifier calls it {result.label!r}; write another"
            raise SourceError("invalid_message", text, fatal=False)
        if result.decision is SafetyDecision.UNAVAILABLE:
            logger.warning("prompt not screened", extra={"reason": result.reason})
            if self._settings.safety.policy != "open":
                text = "prompt: it cannot be screened now, and nothing unscreened is made; try again later"
                raise SourceError("internal_error", text, fatal=False)


async def _in(threads: ThreadPoolExecutor, call: Callable[..., T], *arguments: str) -> T:
    """Call it in one of these threads, with the context of the caller."""
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(threads, context.run, call, *arguments)


class MockPrompts:
    """Stands in for language models where there is none: what it writes is the prompt with a few words more."""

    can_write = True

    async def enhance(self, prompt: str) -> str:
        return f"{prompt}, in fine detail and soft light"

    async def extend(self, prompt: str) -> str:
        return f"{prompt.partition(', a moment later')[0]}, a moment later"

    async def rewrite(self, prompt: str, count: int, temperature: float | None) -> PromptAlternatives:
        ways = [f"{prompt}, seen another way ({number})" for number in range(1, count + 1)]
        return PromptAlternatives(seed_prompt=prompt, alternatives=ways, provider="mock", model="mock", latency_ms=0)

    async def write_window(self, idea: str, count: int, temperature: float | None) -> list[str]:
        return [idea, *(f"{idea}, moment {number}" for number in range(2, count + 1))]

    async def rewrite_window(self, prompts: Sequence[str], instruction: str, temperature: float | None) -> list[str]:
        return [f"{prompt}, {instruction or 'seen another way'}" for prompt in prompts]

    async def screen(self, prompt: str) -> None:
        """Nothing is turned down, but what says so: a front end can show how that looks."""
        if "unsafe" in prompt.lower().split():
            raise SourceError("invalid_message", "prompt: the classifier calls it 'unsafe'; write another", fatal=False)

    def close(self) -> None:
        """It holds nothing."""


def _of_writer(error: VgenError) -> SourceError:
    if isinstance(error, RetryableError):
        return SourceError("upstream_timeout", f"no language model answered: {error}", fatal=False)
    retryable = not isinstance(error, RefusedError)
    return SourceError("internal_error", f"prompts cannot be written: {error}", retryable=retryable, fatal=False)
