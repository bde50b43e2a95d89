"""Prompts that a language model writes: enhanced, continued, rewritten; and the screening of all."""

from __future__ import annotations

from collections.abc import Sequence

from server.stream.endings import no_writer
from server.stream.prompts import PromptDesk
from server.stream.source import SourceError
from server.stream.wire import MAX_PROMPT_CHARACTERS


class BlockedError(Exception):
    """A prompt was turned down: ``place`` in its list, from 0."""

    def __init__(self, place: int, error: SourceError) -> None:
        super().__init__(error.message)
        self.place = place


async def screen_all(desk: PromptDesk, prompts: Sequence[str]) -> None:
    """Screen a list of prompts. Raises BlockedError: the first that is turned down."""
    for place, prompt in enumerate(prompts):
        try:
            await desk.screen(prompt)
        except SourceError as error:
            raise BlockedError(place, error) from None


async def story(desk: PromptDesk, text: str, count: int, *, enhance: bool) -> list[str]:
    """Return so many prompts, each of which goes on where the one before ends. Raises SourceError."""
    _require(desk)
    prompts = [(await desk.enhance(text) if enhance else text)[:MAX_PROMPT_CHARACTERS]]
    while len(prompts) < count:
        prompts.append((await desk.extend(prompts[-1]))[:MAX_PROMPT_CHARACTERS])
    return prompts


async def rewritten(desk: PromptDesk, prompts: Sequence[str], instruction: str, temperature: float | None) -> list[str]:
    """Return the prompts, each written anew as the instruction says. Raises SourceError."""
    _require(desk)
    written = []
    for prompt in prompts:
        asked = f"{prompt}\n{instruction}" if instruction else prompt
        answer = await desk.rewrite(asked[:MAX_PROMPT_CHARACTERS], 1, temperature)
        text = next((each.strip() for each in answer.alternatives if each.strip()), "")
        if not text:
            raise SourceError("internal_error", "the language model wrote nothing", fatal=False)
        written.append(text[:MAX_PROMPT_CHARACTERS])
    return written


def _require(desk: PromptDesk) -> None:
    if not desk.can_write:
        raise SourceError("internal_error", no_writer("rewrite_seed_prompts"), retryable=False, fatal=False)
