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


async def story(desk: PromptDesk, text: str, count: int, temperature: float | None) -> list[str]:
    """Return so many prompts of one video, written together. Raises SourceError."""
    _require(desk)
    return _cut(await desk.write_window(text, count, temperature))


async def rewritten(desk: PromptDesk, prompts: Sequence[str], instruction: str, temperature: float | None) -> list[str]:
    """Return as many prompts, changed together as the instruction says. Raises SourceError."""
    _require(desk)
    return _cut(await desk.rewrite_window(prompts, instruction, temperature))


def _cut(prompts: Sequence[str]) -> list[str]:
    return [prompt[:MAX_PROMPT_CHARACTERS] for prompt in prompts]


def _require(desk: PromptDesk) -> None:
    if not desk.can_write:
        raise SourceError("internal_error", no_writer("rewrite_seed_prompts"), retryable=False, fatal=False)
