"""The prompts that a client sends: they are taken, enhanced where that is on, and made ready for their segments."""

from __future__ import annotations

import asyncio
import secrets
import time

from pipeline.redaction import redact
from server.dreamverse import from_client as c
from server.dreamverse import from_server as m
from server.dreamverse.project import Chosen, Project, Submission
from server.dreamverse.shared import Shared, since
from server.stream.init_image import read_init_image
from server.stream.prompt_queue import MAX_WAITING
from server.stream.source import SourceError
from server.stream.wire import InvalidMessageError


class ClientPrompts:
    """The client's prompts on their way to their segments."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def append(self, project: Project, message: c.AppendPrompt) -> None:
        """Take one more prompt. Raises InvalidMessageError, SourceError: it is not taken."""
        if project.waits_for_rewrite and not project.single_clip:
            raise InvalidMessageError("Use Rewrite to create or restart the rollout.")
        if len(project.received) + len(project.ready) >= MAX_WAITING:
            raise InvalidMessageError(f"prompt: {MAX_WAITING} prompts wait, which is the most; send it later")
        await self._shared.service.prompts.screen(message.prompt)
        project.received.append(Submission(message.prompt_id or secrets.token_hex(8), message.prompt))
        prompt_id, depth = project.received[-1].prompt_id, len(project.received)
        await self._shared.put(m.PromptReceived(prompt_id=prompt_id, queue_depth=depth))

    async def generate_one(self, project: Project, message: c.SimpleGenerate) -> None:
        """Have the project make one clip of a prompt, and begin anew for it. Raises InitImageError, SourceError."""
        await self._shared.service.prompts.screen(message.prompt)
        project.image = await asyncio.to_thread(read_init_image, message.initial_image)
        project.preset_id = message.preset_id or project.preset_id
        project.preset_label = message.preset_label or project.preset_label
        project.enhancement = message.enhancement_enabled and self._shared.service.prompts.can_write
        project.auto_extension = project.loop = project.paused = False
        project.single_clip, project.restart = True, "simple_generate"
        submission = Submission(message.prompt_id or secrets.token_hex(8), message.prompt)
        project.seeds = [] if project.enhancement else [message.prompt]
        project.after_restart = submission if project.enhancement else None
        if project.enhancement:
            await self._shared.put(m.PromptReceived(prompt_id=submission.prompt_id, queue_depth=1))

    async def run(self) -> None:
        """Make the prompts ready, in their order, until cancelled."""
        while True:
            project = self._shared.project
            self._shared.writer_wakes.clear()
            if project is None or not project.received:
                await self._shared.writer_wakes.wait()
                continue
            submission = project.received.popleft()
            chosen = await self._enhanced(project, submission)
            if chosen is not None and project is self._shared.project:
                project.ready.append(chosen)
            self._shared.notify()

    async def _enhanced(self, project: Project, submission: Submission) -> Chosen | None:
        """Return the prompt to use; None: it is not used, which the client is told."""
        begun, prompt_id = time.monotonic(), submission.prompt_id
        prompt = submission.prompt
        source: m.Source = "user_raw"
        if project.enhancement:
            await self._shared.put(m.PromptEnhancing(prompt_id=prompt_id))
            try:
                prompt, source = (await self._shared.service.prompts.enhance(prompt)).strip(), "user_enhanced"
                if not prompt:
                    raise SourceError("internal_error", "the language model wrote nothing", fatal=False)
            except SourceError as error:
                said = m.PromptFallbackUsed(
                    prompt_id=prompt_id, prompt="", latency_ms=since(begun), error=redact(error.message)
                )
                await self._shared.put(said)
                return None
            try:
                await self._shared.service.prompts.screen(prompt)
            except SourceError as error:
                await self._shared.error(error.message, "prompt_blocked")
                return None
        latency_ms = since(begun) if project.enhancement else 0.0
        await self._shared.put(m.PromptReady(prompt_id=prompt_id, prompt=prompt, source=source, latency_ms=latency_ms))
        return Chosen(prompt, source, prompt_id)
