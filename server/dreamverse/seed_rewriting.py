"""Seed prompts that a language model writes: of a text first, or anew as the client wishes; one rewrite at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from pipeline.redaction import redact
from server.dreamverse import from_client as c
from server.dreamverse import from_server as m
from server.dreamverse.project import Project
from server.dreamverse.shared import Shared, since
from server.dreamverse.writing import BlockedError, rewritten, screen_all, story
from server.stream.source import SourceError
from server.stream.wire import InvalidMessageError

logger = logging.getLogger(__name__)


class SeedRewriting:
    """Rewrites the seed prompts of the project."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._task: asyncio.Task[None] | None = None

    @property
    def was_asked(self) -> bool:
        """Whether there was a rewrite already, even if it has ended."""
        return self._task is not None

    def cancel(self) -> None:
        """Forget a rewrite that is not done."""
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """Cancel a rewrite that is not done, and wait for its end."""
        self.cancel()
        await asyncio.gather(*([] if self._task is None else [self._task]), return_exceptions=True)

    def ask(self, project: Project, message: c.RewriteSeedPrompts) -> None:
        instruction = message.rewrite_instruction.strip()
        if message.rewrite_temperature is not None:
            self._shared.temperature = message.rewrite_temperature
        if not project.seeds and not (project.waits_for_rewrite and instruction):
            raise InvalidMessageError("No seed prompts available to rewrite.")
        if self._task is not None and not self._task.done():
            raise InvalidMessageError("rewrite_seed_prompts already in progress.")
        if self._shared.making and not project.single_clip and not project.waits_for_rewrite:
            project.holds_for_rewrite = True
        self.start(project, instruction, message.prompt_window_prompts)

    def start(self, project: Project, instruction: str, window: list[str]) -> None:
        self._task = asyncio.create_task(self._run(project, instruction, window))

    async def _run(self, project: Project, instruction: str, window: list[str]) -> None:
        """Write the seed prompts anew, and say what became of them."""
        desk, begun, error = self._shared.service.prompts, time.monotonic(), None
        prompts = window or list(project.seeds)
        await self._shared.put(m.RewriteSeedPromptsStarted(model=self._shared.writer))
        try:
            if prompts:
                seeds = await rewritten(desk, prompts, instruction, self._shared.temperature)
            else:
                count = max(self._shared.cap_of(project), 1)
                seeds = await story(desk, instruction, count, self._shared.temperature)
            await screen_all(desk, seeds)
        except (SourceError, BlockedError) as failure:
            error = redact(str(failure))
            seeds = project.seeds or [instruction]  # of a text that nobody could write on it makes one segment
        except Exception:  # a bug: the project goes on with the prompts that it has
            logger.exception("seed prompts were not rewritten", extra={"session_id": self._shared.session.id})
            error, seeds = "an internal error; the server's log has it", project.seeds or [instruction]
        if project is not self._shared.project:
            return
        await self._tell(project, seeds, instruction, error, since(begun))
        self._shared.notify()

    async def _tell(
        self, project: Project, seeds: list[str], instruction: str, error: str | None, latency_ms: float
    ) -> None:
        was_empty, project.seeds = not project.seeds, seeds
        if error is None or was_empty:
            if project.waits_for_rewrite:
                project.restart = "initial_rewrite" if was_empty else "rewrite_rollout"
            elif project.holds_for_rewrite:
                project.restart = "rewrite_during_generation"
            elif not project.single_clip and project.place >= len(seeds):
                project.restart = "rewrite_rollout"
            if project.restart is not None:
                project.generated, project.paused = 0, False
                await self._shared.put(m.GenerationPausedUpdated(paused=False))
        project.holds_for_rewrite = False
        told = {"preset_id": project.preset_id, "preset_label": project.preset_label, "error": error}
        common: dict[str, Any] = {**told, "fallback_used": error is not None, "model": self._shared.writer}
        await self._shared.put(
            m.SeedPromptsUpdated(
                prompts=seeds,
                reason="rewrite",
                seed_prompt_count=len(seeds),
                latency_ms=latency_ms,
                rewrite_instruction=instruction,
                **common,
            )
        )
        await self._shared.put(m.RewriteSeedPromptsComplete(latency_ms=latency_ms, **common))
