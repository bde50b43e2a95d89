"""One client of ``/ws``, from the first message to the close: a connection of several projects, one after the other.

It sits on the same sessions as ``/v1/stream``: a project, and a project that begins anew, is a session of a
``SegmentSource``. The base class lets the client in, sends, and closes; three tasks do the rest here: one reads, one
has the client's prompts enhanced, one has segments made.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, cast

from pipeline.encoding.live import Mode
from pipeline.redaction import redact
from server.dreamverse import messages as m
from server.dreamverse.project import Chosen, Project, Submission
from server.dreamverse.writing import BlockedError, rewritten, screen_all, story
from server.stream import endings, wire
from server.stream.connection import Connection
from server.stream.endings import Ending
from server.stream.init_image import InitImage, InitImageError, read_init_image
from server.stream.limits import LONG_CHARACTERS, too_long
from server.stream.messages import PromptSource
from server.stream.prompt_queue import MAX_WAITING
from server.stream.session import SessionState
from server.stream.source import (
    Assigned,
    Done,
    Media,
    MediaBegin,
    MediaEnd,
    Notice,
    Opening,
    SegmentEvent,
    SegmentRequest,
    SegmentSource,
    SourceError,
    Started,
    Waiting,
)
from server.stream.wire import InvalidMessageError

logger = logging.getLogger(__name__)

INIT_S = 10.0
"""A client has so long for its first message."""
_STOPPED = "stop_requested"
_SEGMENTS_OF_SOURCE = 10_000
"""The most segments of one session; lost ones count here, and not towards the most of a project."""
_SOURCES: dict[m.Source, PromptSource] = {
    "curated": "curated",
    "user_raw": "user",
    "user_enhanced": "enhanced",
    "auto_llm": "auto_extension",
}
_NEEDS_PROJECT = (
    *(m.AppendPrompt, m.RewriteSeedPrompts, m.ResetToSeedPrompts),
    *(m.RestartGeneration, m.SimpleGenerate),
)


class DreamverseConversation(Connection):
    """The server's side of ``/ws``, for one client."""

    _project: Project | None = None
    _segment_of_source = 0
    """The number of the next segment in the source's session."""
    _image_of_source: InitImage | None = None
    _rewriting: asyncio.Task[None] | None = None
    _temperature: float | None = None
    _making = False
    _gpu_told = False

    def _set_up(self) -> None:
        self._maker_wakes, self._writer_wakes = asyncio.Event(), asyncio.Event()
        self._project_ends = asyncio.Event()
        self._assigned_at: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def _until_the_end(self, sending: asyncio.Task[None]) -> Ending:
        """A client of this protocol cannot come back to its session: nothing is kept, and nothing more made, for it."""
        end = await super()._until_the_end(sending)
        return replace(end, client_left=False, reason=_STOPPED) if end.client_left else end

    async def _first_end(self, sending: asyncio.Task[None]) -> Ending:
        self._set_up()
        gpus = self._service.gpus
        free = self._total_gpus if gpus is None else gpus.available
        position = 0 if free or gpus is None else gpus.queue_size + 1
        await self._put(m.QueueStatus(position=position, total_gpus=self._total_gpus, available_gpus=free))
        await self._init()
        works = (self._read(), self._enhance_prompts(), self._make_all(), self._time_out())
        try:
            return await self._first_of(works, sending)
        finally:
            if self._rewriting is not None:
                self._rewriting.cancel()
                await asyncio.gather(self._rewriting, return_exceptions=True)

    def lose_key(self) -> None:
        self._end_by(_refused(endings.POLICY, "key_revoked", endings.KEY_LOST))

    def _notify(self) -> None:
        """Have both tasks look again at what there is to do."""
        self._maker_wakes.set()
        self._writer_wakes.set()

    @property
    def _total_gpus(self) -> int:
        gpus = self._service.gpus
        return (self._service.config.pool.num_workers or 1) if gpus is None else gpus.count

    async def _put(self, message: Any) -> None:
        await self._outbox.put(message)

    async def _error(self, text: str, code: str | None = None) -> None:
        await self._put(m.ErrorMessage(message=redact(text), error_code=code))

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
        if not isinstance(message, m.ProjectInit):
            error_text = f"the first message is {message.type}; it must be session_init_v2"
            raise _refused(endings.UNSUPPORTED, "Invalid init", error_text)
        try:
            self._project = await self._project_of(message)
        except BlockedError as error:
            raise _refused(endings.POLICY, "Prompt blocked", _blocked(error)) from None
        except InitImageError as error:
            raise _refused(endings.UNSUPPORTED, "Invalid initial image", str(error)) from None

    async def _project_of(self, init: m.ProjectInit) -> Project:
        """Raises BlockedError, InitImageError."""
        desk = self._service.prompts
        image = await asyncio.to_thread(read_init_image, init.initial_image)
        rollout = (init.initial_rollout_prompt or "").strip()
        await screen_all(desk, [*init.curated_prompts, *([rollout] if rollout else [])])
        if init.rewrite_temperature is not None:
            self._temperature = init.rewrite_temperature
        return Project.of(init, image, can_write=desk.can_write)

    async def _time_out(self) -> None:
        """Raises Ending: the session has had its time, from the GPU on."""
        await self._assigned_at
        timeout_s = self._service.config.session_timeout_seconds
        await asyncio.sleep(timeout_s)
        said = m.SessionTimeout(message=f"Session expired after {timeout_s} seconds")
        raise Ending(SessionState.TIMEOUT, endings.NORMAL, "Session timeout", (said,))

    # What the client sends

    async def _parsed(self, text: str | None) -> m.ClientMessage:
        """Raises InvalidMessageError."""
        if text is None:
            raise InvalidMessageError("binary messages are not read; send JSON as text")
        message = (
            await asyncio.to_thread(m.CLIENT_MESSAGES.of_text, text)
            if len(text) > LONG_CHARACTERS
            else m.CLIENT_MESSAGES.of_text(text)
        )
        with_image = isinstance(message, m.ProjectInit | m.SimpleGenerate)
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
                await self._error(str(error), "invalid_message")
            except BlockedError as error:
                await self._error(_blocked(error), "prompt_blocked")
            except SourceError as error:
                await self._error(error.message, error.code)
            self._notify()

    async def _act(self, message: m.ClientMessage) -> None:
        """Raises Ending, and what the client is told of as an error."""
        project = self._project
        match message:
            case m.Leave():
                raise Ending(SessionState.COMPLETE, endings.NORMAL, _STOPPED)
            case m.EndProjectKeepSession():
                self._end_project()
            case m.ProjectInit():
                if project is not None:
                    raise InvalidMessageError("Current project is still ending; send end_project_keep_session first.")
                self._project = await self._project_of(message)
                if not self._project.waits_for_rewrite:
                    self._project.restart = "project_init"
                else:
                    self._start_rewrite(self._project, self._project.rollout_prompt, [])
            case m.SetRewriteModel():
                await self._put(m.RewriteModelUpdated(rewrite_model=self._writer))
            case m.SetRewriteTemperature():
                self._temperature = message.rewrite_temperature
                await self._put(m.RewriteTemperatureUpdated(rewrite_temperature=self._temperature))
            case _ if project is not None:
                await self._act_on(project, message)
            case _ if isinstance(message, _NEEDS_PROJECT):
                raise InvalidMessageError("Start a new project before sending prompts.")

    async def _act_on(self, project: Project, message: m.ClientMessage) -> None:
        """Raises what the client is told of as an error."""
        match message:
            case m.AppendPrompt():
                await self._append(project, message)
            case m.SimpleGenerate():
                await self._simple(project, message)
            case m.RewriteSeedPrompts():
                self._ask_rewrite(project, message)
            case m.ResetToSeedPrompts():
                project.restart = "manual_reset"
                await self._put(m.SeedPromptsResetPending(seed_prompt_count=len(project.seeds)))
            case m.RestartGeneration():
                project.restart, project.generated, project.paused = "cap_restart", 0, False
                await self._put(m.GenerationRestarted(segment_cap=self._cap_of(project)))
            case _:
                await self._switch(project, message)

    async def _switch(self, project: Project, message: m.ClientMessage) -> None:
        """Switch something, and say what it is now: nothing that writes prompts can be on without a language model."""
        can_write = self._service.prompts.can_write
        match message:
            case m.SetEnhancement():
                project.enhancement = message.enabled and can_write
                await self._put(m.EnhancementUpdated(enabled=project.enhancement))
            case m.SetAutoExtension():
                project.auto_extension = message.enabled and can_write
                project.failed_extension = None
                await self._put(m.AutoExtensionUpdated(enabled=project.auto_extension))
            case m.SetLoopGeneration():
                project.loop = message.enabled
                await self._put(m.LoopGenerationUpdated(enabled=project.loop))
            case m.SetGenerationPaused():
                project.paused = message.paused
                await self._put(m.GenerationPausedUpdated(paused=project.paused))

    def _end_project(self) -> None:
        if self._rewriting is not None:
            self._rewriting.cancel()
        if self._project is not None:
            self._project_ends.set()

    async def _append(self, project: Project, message: m.AppendPrompt) -> None:
        if project.waits_for_rewrite and not project.single_clip:
            raise InvalidMessageError("Use Rewrite to create or restart the rollout.")
        if len(project.received) + len(project.ready) >= MAX_WAITING:
            raise InvalidMessageError(f"prompt: {MAX_WAITING} prompts wait, which is the most; send it later")
        await self._service.prompts.screen(message.prompt)
        project.received.append(Submission(message.prompt_id or secrets.token_hex(8), message.prompt))
        prompt_id, depth = project.received[-1].prompt_id, len(project.received)
        await self._put(m.PromptReceived(prompt_id=prompt_id, queue_depth=depth))

    async def _simple(self, project: Project, message: m.SimpleGenerate) -> None:
        await self._service.prompts.screen(message.prompt)
        project.image = await asyncio.to_thread(read_init_image, message.initial_image)
        project.preset_id = message.preset_id or project.preset_id
        project.preset_label = message.preset_label or project.preset_label
        project.enhancement = message.enhancement_enabled and self._service.prompts.can_write
        project.auto_extension = project.loop = project.paused = False
        project.single_clip, project.restart = True, "simple_generate"
        submission = Submission(message.prompt_id or secrets.token_hex(8), message.prompt)
        project.seeds = [] if project.enhancement else [message.prompt]
        project.after_restart = submission if project.enhancement else None
        if project.enhancement:
            await self._put(m.PromptReceived(prompt_id=submission.prompt_id, queue_depth=1))

    # Prompts that are written

    @property
    def _writer(self) -> str:
        prompts = self._service.config.prompt
        return prompts.model if prompts.enabled else "as configured"

    async def _enhance_prompts(self) -> None:
        """Make the client's prompts ready, in their order."""
        while True:
            project = self._project
            self._writer_wakes.clear()
            if project is None or not project.received:
                await self._writer_wakes.wait()
                continue
            submission = project.received.popleft()
            chosen = await self._enhanced(project, submission)
            if chosen is not None and project is self._project:
                project.ready.append(chosen)
            self._notify()

    async def _enhanced(self, project: Project, submission: Submission) -> Chosen | None:
        """Return the prompt to use; None: it is not used, which the client is told."""
        begun, prompt_id = time.monotonic(), submission.prompt_id
        prompt = submission.prompt
        source: m.Source = "user_raw"
        if project.enhancement:
            await self._put(m.PromptEnhancing(prompt_id=prompt_id))
            try:
                prompt, source = (await self._service.prompts.enhance(prompt)).strip(), "user_enhanced"
                if not prompt:
                    raise SourceError("internal_error", "the language model wrote nothing", fatal=False)
            except SourceError as error:
                said = m.PromptFallbackUsed(
                    prompt_id=prompt_id, prompt="", latency_ms=_since(begun), error=redact(error.message)
                )
                await self._put(said)
                return None
            try:
                await self._service.prompts.screen(prompt)
            except SourceError as error:
                await self._error(error.message, "prompt_blocked")
                return None
        latency_ms = _since(begun) if project.enhancement else 0.0
        await self._put(m.PromptReady(prompt_id=prompt_id, prompt=prompt, source=source, latency_ms=latency_ms))
        return Chosen(prompt, source, prompt_id)

    def _ask_rewrite(self, project: Project, message: m.RewriteSeedPrompts) -> None:
        instruction = message.rewrite_instruction.strip()
        if message.rewrite_temperature is not None:
            self._temperature = message.rewrite_temperature
        if not project.seeds and not (project.waits_for_rewrite and instruction):
            raise InvalidMessageError("No seed prompts available to rewrite.")
        if self._rewriting is not None and not self._rewriting.done():
            raise InvalidMessageError("rewrite_seed_prompts already in progress.")
        if self._making and not project.single_clip and not project.waits_for_rewrite:
            project.holds_for_rewrite = True
        self._start_rewrite(project, instruction, message.prompt_window_prompts)

    def _start_rewrite(self, project: Project, instruction: str, window: list[str]) -> None:
        self._rewriting = asyncio.create_task(self._rewrite(project, instruction, window))

    async def _rewrite(self, project: Project, instruction: str, window: list[str]) -> None:
        """Write the seed prompts anew, and say what became of them."""
        desk, begun, error = self._service.prompts, time.monotonic(), None
        prompts = window or list(project.seeds)
        await self._put(m.RewriteSeedPromptsStarted(model=self._writer))
        try:
            if prompts:
                seeds = await rewritten(desk, prompts, instruction, self._temperature)
            else:
                count = max(self._cap_of(project), 1)
                seeds = await story(desk, instruction, count, enhance=project.enhancement)
            await screen_all(desk, seeds)
        except (SourceError, BlockedError) as failure:
            error = redact(str(failure))
            seeds = project.seeds or [instruction]  # of a text that nobody could write on it makes one segment
        except Exception:  # a bug: the project goes on with the prompts that it has
            logger.exception("seed prompts were not rewritten", extra={"session_id": self._session.id})
            error, seeds = "an internal error; the server's log has it", project.seeds or [instruction]
        if project is not self._project:
            return
        await self._rewrote(project, seeds, instruction, error, _since(begun))
        self._notify()

    async def _rewrote(
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
                await self._put(m.GenerationPausedUpdated(paused=False))
        project.holds_for_rewrite = False
        told = {"preset_id": project.preset_id, "preset_label": project.preset_label, "error": error}
        common: dict[str, Any] = {**told, "fallback_used": error is not None, "model": self._writer}
        await self._put(
            m.SeedPromptsUpdated(
                prompts=seeds,
                reason="rewrite",
                seed_prompt_count=len(seeds),
                latency_ms=latency_ms,
                rewrite_instruction=instruction,
                **common,
            )
        )
        await self._put(m.RewriteSeedPromptsComplete(latency_ms=latency_ms, **common))

    # Segments

    def _cap_of(self, project: Project) -> int:
        """The most segments of a project; 0: as many as are asked for, one by one."""
        return 0 if project.single_clip else self._service.config.generation_segment_cap

    async def _make_all(self) -> None:
        """Have the segments of one project after the other made, until cancelled. Raises SourceError."""
        assert self._project is not None
        await self._open(self._project)
        await self._begin_first(self._project)
        while True:
            self._maker_wakes.clear()
            project = self._project
            if self._project_ends.is_set():
                await self._go_idle()
            elif project is None:
                await self._maker_wakes.wait()
            elif project.restart is not None:
                await self._restart(project)
            elif (chosen := await self._choose(project)) is not None:
                if self._segment_of_source >= _SEGMENTS_OF_SOURCE:
                    await self._close_source()
                    await self._open(project)
                await self._make_one(project, chosen)
            elif project.restart is None and not self._project_ends.is_set():
                await self._maker_wakes.wait()

    async def _begin_first(self, project: Project) -> None:
        await self._put(m.LoopGenerationUpdated(enabled=project.loop))
        await self._put(m.GenerationPausedUpdated(paused=project.paused))
        if project.waits_for_rewrite:
            if self._rewriting is None:  # the client may have asked for one while it waited for a GPU
                self._start_rewrite(project, project.rollout_prompt, [])
            return
        await self._start_stream(project)
        said = m.SeedPromptsUpdated(
            prompts=project.seeds,
            preset_id=project.preset_id,
            preset_label=project.preset_label,
            reason="init",
            seed_prompt_count=len(project.seeds),
        )
        await self._put(said)

    async def _start_stream(self, project: Project) -> None:
        project.started = True
        await self._put(
            m.StreamStart(
                total_segments=len(project.seeds),
                preset_id=project.preset_id,
                loop_generation_enabled=project.loop,
                loop_iteration=project.iteration,
                generation_segment_cap=self._cap_of(project),
            )
        )

    async def _restart(self, project: Project) -> None:
        """Begin the project anew, in a session of its own."""
        reason = project.restart or ""
        if self._segment_of_source or self._image_of_source is not project.image or self._source is None:
            await self._close_source()
            await self._open(project)
        raw, ready = project.begin_anew()
        await self._start_stream(project)
        counts: dict[str, Any] = {
            "loop_iteration": project.iteration,
            "seed_prompt_count": len(project.seeds),
            "dropped_user_raw_queue": raw,
            "dropped_user_ready_queue": ready,
        }
        if reason == "loop_restart":
            await self._put(m.LoopRestarted(**counts))
        else:
            await self._put(m.SeedPromptsResetApplied(reason=reason, **counts))
        self._notify()

    async def _go_idle(self) -> None:
        """End the project, and give its GPU to others."""
        project, self._project = self._project, None
        self._project_ends.clear()
        await self._close_source()
        if project is None:
            return
        if project.started:
            await self._put(m.StreamComplete())
        raw, ready = len(project.received), len(project.ready)
        await self._put(m.ProjectIdle(dropped_user_raw_queue=raw, dropped_user_ready_queue=ready))

    async def _choose(self, project: Project) -> Chosen | None:
        """Return the next segment's prompt; None where nothing is to be made now, which the client is told."""
        cap = self._cap_of(project)
        if cap and project.generated >= cap and not project.waits_for_rewrite:
            project.loop, project.waits_for_rewrite, project.started = False, True, False
            await self._put(m.GenerationCapReached(segment_cap=cap, generated_segments=project.generated))
            await self._put(m.StreamComplete())
        if project.waits_for_rewrite or project.holds_for_rewrite or project.paused:
            return None
        chosen = project.take()
        if chosen is None and project.loop and project.seeds:
            if project.made_in_round:
                project.restart = "loop_restart"
                return None
            project.loop = False  # the next round would be as empty, and the one after it
            await self._put(m.LoopGenerationUpdated(enabled=False))
        if chosen is None and project.auto_extension:
            chosen = await self._extended(project)
            if chosen is None and project.failed_extension != project.segment + 1:
                return None  # meanwhile the client has said what it wants
        index = project.segment + 1
        if chosen is None:
            if not project.single_clip and not project.told_blocked:
                project.told_blocked = True
                await self._put(m.PromptSourcesBlocked(segment_idx=index))
        elif project.told_blocked:
            project.told_blocked = False
            said = m.PromptSourcesResumed(segment_idx=index, source=chosen.source, prompt_id=chosen.prompt_id)
            await self._put(said)
        return chosen

    async def _extended(self, project: Project) -> Chosen | None:
        """Return a prompt that goes on from the last; None: it failed, is turned down, or is not wanted any more."""
        begun, index = time.monotonic(), project.segment + 1
        if project.last_prompt is None or project.failed_extension == index:
            project.failed_extension = index
            return None
        try:
            text = (await self._service.prompts.extend(project.last_prompt)).strip()
            await self._service.prompts.screen(text)
        except SourceError as error:
            project.failed_extension = index
            text = redact(error.message)
            await self._put(m.AutoPromptFailed(segment_idx=index, latency_ms=_since(begun), error=text))
            return None
        wanted = project.auto_extension and not project.paused and project.restart is None and not project.ready
        return Chosen(text, "auto_llm") if wanted and not self._project_ends.is_set() else None

    async def _make_one(self, project: Project, chosen: Chosen) -> None:
        """Have one segment made; it is left where its project ends. Raises SourceError: the session cannot go on."""
        project.segment += 1
        self._making = True
        making = asyncio.create_task(self._segment(project, chosen))
        ending = asyncio.create_task(self._project_ends.wait())
        try:
            await asyncio.wait({making, ending}, return_when=asyncio.FIRST_COMPLETED)
            if making.done():
                making.result()
        except SourceError as error:
            if error.fatal:
                raise
            project.segment -= 1
            await self._error(error.message, error.code)
        finally:
            self._making = False
            for task in (making, ending):
                task.cancel()
            await asyncio.gather(making, ending, return_exceptions=True)

    async def _segment(self, project: Project, chosen: Chosen) -> None:
        """Have one segment made, and tell all of it. Raises SourceError."""
        source = self._source
        assert source is not None
        index = project.segment
        request = SegmentRequest(
            index=self._segment_of_source,
            prompt=chosen.prompt,
            source=_SOURCES[chosen.source],
            negative_prompt=self._service.request.negative_prompt,
        )
        await source.announce(request)
        self._segment_of_source += 1  # also of one that is lost: its number is taken
        events = cast(AsyncGenerator[SegmentEvent, None], source.start_segment(request))
        done: Done | None = None
        stream_id = ""
        async with contextlib.aclosing(events):
            async for event in events:
                match event:
                    case Started(_, prompt):
                        await self._tell_start(project, chosen, prompt)
                    case MediaBegin(stream_id, mime, _, data):
                        await self._put(wire.MediaInit(segment_idx=index, mime=mime, stream_id=stream_id))
                        if data:
                            await self._put(data)
                    case Media(_, data):
                        await self._put(data)
                    case MediaEnd(chunks, _):
                        said = wire.MediaSegmentComplete(segment_idx=index, stream_id=stream_id, chunks=chunks)
                        await self._put(said)
                    case Notice(code, message):
                        of = {"session_id": self._session.id, "code": code}
                        logger.warning("stream notice: %s", message, extra=of)
                    case Done():
                        done = event
                    case _:  # steps, and another GPU: the page shows neither
                        pass
        if done is None:
            raise SourceError("worker_failed", f"segment {index} ended without its frames")
        await self._tell_made(project, chosen, done)

    async def _tell_start(self, project: Project, chosen: Chosen, prompt: str) -> None:
        common: dict[str, Any] = {
            "segment_idx": project.segment,
            "source": chosen.source,
            "seed_prompt_index": chosen.seed_prompt_index,
            "loop_iteration": project.iteration,
        }
        await self._put(m.SegmentPromptSource(prompt_id=chosen.prompt_id, **common))
        await self._put(m.SegmentStart(total_segments=project.total_segments, prompt=prompt, **common))

    async def _tell_made(self, project: Project, chosen: Chosen, done: Done) -> None:
        self._session.segment_idx = self._segment_of_source
        project.generated += 1
        project.made_in_round += 1
        project.last_prompt = chosen.prompt
        total, own = _since(chosen.chosen_at), round(done.generation_time_ms, 2)
        latency = m.Latency(total=total, worker_e2e=own, main_user_step=total, overhead=round(total - own, 2))
        await self._put(m.StepComplete(latency_ms=latency))
        await self._put(m.SegmentComplete(segment_idx=project.segment, total_segments=project.total_segments))
        if project.single_clip:
            project.started = False
            await self._put(m.StreamComplete())

    # The GPU

    async def _open(self, project: Project) -> None:
        """Begin a session of segments, which waits for a GPU. Raises SourceError: none was free for too long."""
        config = self._service.config
        source = self._source = self._service.make_source()
        self._segment_of_source, self._image_of_source = 0, project.image
        opening = Opening(
            session_id=secrets.token_hex(16),
            owner=self._caller.owner,
            key_id=self._caller.key_id,
            preset=self._service.preset,
            image=project.image,
            mode=Mode.AV_FMP4,
            silent_audio=True,  # the page takes no stream without sound
            segment_cap=_SEGMENTS_OF_SOURCE,
            timeout_s=config.session_timeout_seconds,
            on_key_lost=self.lose_key,
        )
        try:
            async with asyncio.timeout(opening.timeout_s):
                async for place in source.open(opening):
                    await self._placed(place)
        except TimeoutError:
            text = f"no GPU was free for {opening.timeout_s:g} s; try again later"
            raise SourceError("gpu_unavailable", text) from None

    async def _placed(self, place: Waiting | Assigned) -> None:
        session = self._session
        if isinstance(place, Waiting):
            if session.state is SessionState.INITIALIZING:
                session.transition(SessionState.QUEUED)
            await self._put(m.QueueStatus(position=place.position, total_gpus=self._total_gpus, available_gpus=0))
            return
        session.gpu_id = place.gpu_id
        if self._gpu_told:
            return
        self._gpu_told = True
        session.transition(SessionState.GPU_BINDING)
        timeout_s = self._service.config.session_timeout_seconds
        await self._put(m.GpuAssigned(gpu_id=place.gpu_id, session_timeout=timeout_s))
        session.transition(SessionState.ACTIVE)
        self._assigned_at.set_result(time.monotonic())

    async def _close_source(self) -> None:
        source: SegmentSource | None
        source, self._source = self._source, None
        self._session.gpu_id = None
        if source is not None:
            closing = source.close(client_left=False, state=SessionState.COMPLETE, reason=_STOPPED)
            await asyncio.shield(asyncio.ensure_future(closing))  # a session that is left open keeps its GPU


def _since(begun: float) -> float:
    return round((time.monotonic() - begun) * 1000, 2)


def _refused(code: int, reason: str, text: str) -> Ending:
    return Ending(SessionState.REJECTED, code, reason, (m.ErrorMessage(message=redact(text)),))


def _blocked(error: BlockedError) -> str:
    return f"Prompt safety filter blocked initial prompt {error.place + 1}. {error}"
