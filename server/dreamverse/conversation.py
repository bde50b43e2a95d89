"""One client of ``/ws``, from the first message to the close: a connection of several projects, one after the other.

It sits on the same sessions as ``/v1/stream``: a project, and a project that begins anew, is a session of a
``SegmentSource``. The base class lets the client in, sends, and closes; three tasks do the rest: one reads (here), one
makes the client's prompts ready (``client_prompts``), one has segments made (``segments``).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from pipeline.redaction import redact
from server.auth import Caller
from server.dreamverse import from_client as c
from server.dreamverse import from_server as m
from server.dreamverse.client_prompts import ClientPrompts
from server.dreamverse.gpu_session import GpuSession
from server.dreamverse.project import Project
from server.dreamverse.seed_rewriting import SeedRewriting
from server.dreamverse.segments import SegmentMaking
from server.dreamverse.shared import STOPPED, Shared
from server.dreamverse.writing import BlockedError, screen_all
from server.stream import endings
from server.stream.connection import Channel, Connection
from server.stream.endings import Ending
from server.stream.init_image import InitImageError, read_init_image
from server.stream.limits import LONG_CHARACTERS, too_long
from server.stream.service import StreamService
from server.stream.session import SessionState
from server.stream.source import SegmentSource, SourceError
from server.stream.wire import InvalidMessageError

INIT_S = 10.0
"""A client has so long for its first message."""
_NEEDS_PROJECT = (
    *(c.AppendPrompt, c.RewriteSeedPrompts, c.ResetToSeedPrompts),
    *(c.RestartGeneration, c.SimpleGenerate),
)


class DreamverseConversation(Connection):
    """The server's side of ``/ws``, for one client."""

    def __init__(self, channel: Channel, service: StreamService, caller: Caller) -> None:
        super().__init__(channel, service, caller)
        self._shared = Shared(service, self._session, self._outbox)
        self._prompts = ClientPrompts(self._shared)
        self._rewriting = SeedRewriting(self._shared)
        self._gpu = GpuSession(self._shared, caller, on_source=self._hold, on_key_lost=self.lose_key)
        self._segments = SegmentMaking(self._shared, self._gpu, self._rewriting)

    def _hold(self, source: SegmentSource | None) -> None:
        self._source = source

    async def _until_the_end(self, sending: asyncio.Task[None]) -> Ending:
        """A client of this protocol cannot come back to its session: nothing is kept, and nothing more made, for it."""
        end = await super()._until_the_end(sending)
        return replace(end, client_left=False, reason=STOPPED) if end.client_left else end

    async def _first_end(self, sending: asyncio.Task[None]) -> Ending:
        gpus = self._service.gpus
        free = self._shared.total_gpus if gpus is None else gpus.available
        position = 0 if free or gpus is None else gpus.queue_size + 1
        await self._shared.put(
            m.QueueStatus(position=position, total_gpus=self._shared.total_gpus, available_gpus=free)
        )
        await self._init()
        works = (self._read(), self._prompts.run(), self._segments.run(), self._time_out())
        try:
            return await self._first_of(works, sending)
        finally:
            await self._rewriting.stop()

    def lose_key(self) -> None:
        self._end_by(_refused(endings.POLICY, "key_revoked", endings.KEY_LOST))

    def _failed(self, error: SourceError) -> Ending:
        said = m.ErrorMessage(message=redact(error.message), error_code=error.code)
        if error.code in ("gpu_unavailable", "session_rejected"):
            state = SessionState.TIMEOUT if error.code == "gpu_unavailable" else SessionState.REJECTED
            return Ending(state, endings.TRY_LATER, error.code, (said,))
        return Ending(SessionState.ERROR, endings.INTERNAL, error.code, (said,))

    # The beginning and the end

    async def _init(self) -> None:
        """Begin the project of the first message, of which all is checked. Raises Ending, WebSocketDisconnect."""
        try:
            async with asyncio.timeout(INIT_S):
                text = await self._receive()
        except TimeoutError:
            said = m.SessionTimeout(message=f"No session_init_v2 came within {INIT_S:g} seconds")
            raise Ending(SessionState.ERROR, endings.NORMAL, "Session timeout", (said,)) from None
        try:
            message = await self._parsed(text)
        except InvalidMessageError as error:
            raise _refused(endings.UNSUPPORTED, "Invalid init", f"the first message: {error}") from None
        if not isinstance(message, c.ProjectInit):
            error_text = f"the first message is {message.type}; it must be session_init_v2"
            raise _refused(endings.UNSUPPORTED, "Invalid init", error_text)
        try:
            self._shared.project = await self._project_of(message)
        except BlockedError as error:
            raise _refused(endings.POLICY, "Prompt blocked", _blocked(error)) from None
        except InitImageError as error:
            raise _refused(endings.UNSUPPORTED, "Invalid initial image", str(error)) from None

    async def _project_of(self, init: c.ProjectInit) -> Project:
        """Raises BlockedError, InitImageError."""
        desk = self._service.prompts
        image = await asyncio.to_thread(read_init_image, init.initial_image)
        rollout = (init.initial_rollout_prompt or "").strip()
        await screen_all(desk, [*init.curated_prompts, *([rollout] if rollout else [])])
        if init.rewrite_temperature is not None:
            self._shared.temperature = init.rewrite_temperature
        return Project.of(init, image, can_write=desk.can_write)

    async def _time_out(self) -> None:
        """Raises Ending: the session has had its time, from the GPU on."""
        await self._gpu.assigned_at
        timeout_s = self._service.config.session_timeout_seconds
        await asyncio.sleep(timeout_s)
        said = m.SessionTimeout(message=f"Session expired after {timeout_s} seconds")
        raise Ending(SessionState.TIMEOUT, endings.NORMAL, "Session timeout", (said,))

    # What the client sends

    async def _parsed(self, text: str | None) -> c.ClientMessage:
        """Raises InvalidMessageError."""
        if text is None:
            raise InvalidMessageError("binary messages are not read; send JSON as text")
        message = (
            await asyncio.to_thread(c.CLIENT_MESSAGES.of_text, text)
            if len(text) > LONG_CHARACTERS
            else c.CLIENT_MESSAGES.of_text(text)
        )
        with_image = isinstance(message, c.ProjectInit | c.SimpleGenerate)
        if not with_image and (problem := too_long(text)) is not None:
            raise InvalidMessageError(problem)
        return message

    async def _read(self) -> None:
        """Act on what the client sends. Raises Ending, WebSocketDisconnect."""
        while True:
            text = await self._receive()
            self._session.touch()
            try:
                if not self._rate.take():
                    self._refuse_flood()
                    continue
                await self._act(await self._parsed(text))
            except (InvalidMessageError, InitImageError) as error:
                await self._shared.error(str(error), "invalid_message")
            except BlockedError as error:
                await self._shared.error(_blocked(error), "prompt_blocked")
            except SourceError as error:
                await self._shared.error(error.message, error.code)
            self._shared.notify()

    async def _act(self, message: c.ClientMessage) -> None:
        """Raises Ending, and what the client is told of as an error."""
        project = self._shared.project
        match message:
            case c.Leave():
                raise Ending(SessionState.COMPLETE, endings.NORMAL, STOPPED)
            case c.EndProjectKeepSession():
                self._end_project()
            case c.ProjectInit():
                if project is not None:
                    raise InvalidMessageError("Current project is still ending; send end_project_keep_session first.")
                project = self._shared.project = await self._project_of(message)
                if not project.waits_for_rewrite:
                    project.restart = "project_init"
                else:
                    self._rewriting.start(project, project.rollout_prompt, [])
            case c.SetRewriteModel():
                await self._shared.put(m.RewriteModelUpdated(rewrite_model=self._shared.writer))
            case c.SetRewriteTemperature():
                self._shared.temperature = message.rewrite_temperature
                await self._shared.put(m.RewriteTemperatureUpdated(rewrite_temperature=self._shared.temperature))
            case _ if project is not None:
                await self._act_on(project, message)
            case _ if isinstance(message, _NEEDS_PROJECT):
                raise InvalidMessageError("Start a new project before sending prompts.")

    async def _act_on(self, project: Project, message: c.ClientMessage) -> None:
        """Raises what the client is told of as an error."""
        match message:
            case c.AppendPrompt():
                await self._prompts.append(project, message)
            case c.SimpleGenerate():
                await self._prompts.generate_one(project, message)
            case c.RewriteSeedPrompts():
                self._rewriting.ask(project, message)
            case c.ResetToSeedPrompts():
                project.restart = "manual_reset"
                await self._shared.put(m.SeedPromptsResetPending(seed_prompt_count=len(project.seeds)))
            case c.RestartGeneration():
                project.restart, project.generated, project.paused = "cap_restart", 0, False
                await self._shared.put(m.GenerationRestarted(segment_cap=self._shared.cap_of(project)))
            case _:
                await self._switch(project, message)

    async def _switch(self, project: Project, message: c.ClientMessage) -> None:
        """Switch something, and say what it is now: nothing that writes prompts can be on without a language model."""
        can_write = self._service.prompts.can_write
        match message:
            case c.SetEnhancement():
                project.enhancement = message.enabled and can_write
                await self._shared.put(m.EnhancementUpdated(enabled=project.enhancement))
            case c.SetAutoExtension():
                project.auto_extension = message.enabled and can_write
                project.failed_extension = None
                await self._shared.put(m.AutoExtensionUpdated(enabled=project.auto_extension))
            case c.SetLoopGeneration():
                project.loop = message.enabled
                await self._shared.put(m.LoopGenerationUpdated(enabled=project.loop))
            case c.SetGenerationPaused():
                project.paused = message.paused
                await self._shared.put(m.GenerationPausedUpdated(paused=project.paused))

    def _end_project(self) -> None:
        self._rewriting.cancel()
        if self._shared.project is not None:
            self._shared.project_ends.set()


def _refused(code: int, reason: str, text: str) -> Ending:
    return Ending(SessionState.REJECTED, code, reason, (m.ErrorMessage(message=redact(text)),))


def _blocked(error: BlockedError) -> str:
    return f"Prompt safety filter blocked initial prompt {error.place + 1}. {error}"
