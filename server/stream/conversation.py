"""One client of ``/v1/stream`` and its session: from the first message to the close.

Three tasks work on it. One reads what the client sends, one makes the next prompt ready while the segment before is
made (``PromptQueue``), and one has segments made.
"""

from __future__ import annotations

import asyncio
import time

from server.auth import Caller
from server.stream import endings
from server.stream import messages as m
from server.stream.connection import Channel, Connection
from server.stream.endings import Ending, error_message, refused_init
from server.stream.init_image import InitImageError, read_init_image
from server.stream.limits import LONG_CHARACTERS, too_long
from server.stream.prompt_queue import PromptQueue, Ready
from server.stream.segment_teller import SegmentTeller
from server.stream.service import StreamService
from server.stream.session import SessionState
from server.stream.source import (
    Assigned,
    ContinuationState,
    Opening,
    SegmentSource,
    SessionTimedOutError,
    SourceError,
    Waiting,
    no_gpu_in_time,
)
from server.stream.wire import InvalidMessageError

INIT_S = 30.0
"""A client has so long for its first message, or as long as a session may be idle, if that is less."""
_BUSY_POLL_S = 0.05


class Conversation(Connection):
    """The server's side of the protocol, for one client."""

    def __init__(self, channel: Channel, service: StreamService, caller: Caller) -> None:
        super().__init__(channel, service, caller)
        self._prompts = PromptQueue(self._session, service.prompts, service.request, self._outbox.put)

    async def _first_end(self, sending: asyncio.Task[None]) -> Ending:
        opening = await self._opening()
        return await self._first_of((self._read(), self._make(opening)), sending)

    def _failed(self, error: SourceError) -> Ending:
        if isinstance(error, SessionTimedOutError):
            return endings.idle(self._service.config.session_timeout_seconds)
        said = error_message(error.code, error.message, retryable=error.retryable)
        match error.code:
            case "gpu_unavailable":
                return Ending(SessionState.TIMEOUT, endings.TRY_LATER, error.code, (said,))
            case "session_rejected":
                final = endings.POLICY if self._session.state is SessionState.ACTIVE else endings.UNSUPPORTED
                close = endings.TRY_LATER if error.retryable else final
                return Ending(SessionState.REJECTED, close, error.code, (said,))
            case "preset_mismatch" | "invalid_message" if self._session.state is not SessionState.ACTIVE:
                return Ending(SessionState.REJECTED, endings.UNSUPPORTED, error.code, (said,))
        dropped = len(self._prompts)
        waiting = [error_message(error.code, f"{dropped} prompts that waited are dropped with it")] if dropped else []
        return endings.failed(error.code, error.message, *waiting, retryable=error.retryable)

    # What the client sends

    async def _opening(self) -> Opening:
        """Return what the first message asks for. Raises Ending, WebSocketDisconnect."""
        config = self._service.config
        patience_s = min(INIT_S, config.session_timeout_seconds)
        try:
            async with asyncio.timeout(patience_s):
                text = await self._receive()
        except TimeoutError:
            raise endings.silent_from_the_start(patience_s) from None
        long = text is not None and len(text) > LONG_CHARACTERS
        init = await asyncio.to_thread(_init_of, text) if long else _init_of(text)
        try:
            image = await asyncio.to_thread(read_init_image, init.initial_image)
        except InitImageError as error:
            raise refused_init(str(error)) from None
        state = _state_of(init.continuation_state)
        await self._tell_misspelt(init)
        self._begin(init)
        said = {"mode": "stream_mode" in init.model_fields_set, "silent_audio": init.silent_audio is not None}
        return Opening(
            session_id=self._session.id,
            owner=self._caller.owner,
            key_id=self._caller.key_id,
            client_id=init.client_id,
            preset_label=init.preset_label,
            preset=init.preset or self._service.preset,
            image=image,
            state=state,
            mode=self._session.stream_mode,
            silent_audio=config.silent_audio if init.silent_audio is None else init.silent_audio,
            unsaid=frozenset(name for name, is_said in said.items() if not is_said),
            segment_cap=self._cap,
            timeout_s=config.session_timeout_seconds,
            resume=init.session_id is not None,
            after_segment=init.after_segment,
            on_displaced=self.displace,
            on_key_lost=self.lose_key,
        )

    def _begin(self, init: m.SessionInitV2) -> None:
        """Take over what the first message says, and end the conversation that had the session before."""
        session, config = self._session, self._service.config
        session.client_id, session.preset, session.preset_label = init.client_id, init.preset, init.preset_label
        session.curated_prompts = list(init.curated_prompts)
        session.loop_generation_enabled = init.loop_generation_enabled
        session.single_clip_mode = init.single_clip_mode
        session.enhancement_enabled = init.enhancement_enabled
        session.auto_extension_enabled = init.auto_extension_enabled
        session.stream_mode = init.stream_mode if "stream_mode" in init.model_fields_set else config.stream_mode
        if init.session_id is not None:
            if not (init.session_id.isascii() and init.session_id.isalnum()):
                raise refused_init(f"session_id: {init.session_id!r:.80} is not the id of a session")
            session.id = init.session_id
            self._displace_before()

    def _displace_before(self) -> None:
        """End the conversation of the same owner that has the session on this server."""
        before = self._service.watched.get(self._session.id)
        if before is not None and before is not self and before._caller.owner == self._caller.owner:
            before.displace()

    @property
    def _cap(self) -> int:
        return 1 if self._session.single_clip_mode else self._service.config.generation_segment_cap

    async def _read(self) -> None:
        """Act on what the client sends. Raises Ending, WebSocketDisconnect."""
        await self._switch_off_what_cannot_be()
        while True:
            text = await self._receive()
            self._session.touch()
            try:
                if not self._rate.take():
                    self._refuse_flood()
                    continue
                if text is None:
                    raise InvalidMessageError("binary messages are not read; send JSON as text")
                if (problem := too_long(text)) is not None:
                    raise InvalidMessageError(problem)
                message = m.CLIENT_MESSAGES.of_text(text)
                await self._tell_misspelt(message)
                await self._apply(message)
            except InvalidMessageError as error:
                said = error_message("invalid_message", str(error), retryable=True, prompt=error.prompt)
                await self._outbox.put(said)

    async def _switch_off_what_cannot_be(self) -> None:
        for name in ("enhancement_enabled", "auto_extension_enabled"):
            if getattr(self._session, name) and not self._service.prompts.can_write:
                setattr(self._session, name, False)
                await self._outbox.put(error_message("invalid_message", endings.no_writer(name)))

    async def _apply(self, message: m.ClientMessage) -> None:
        """Raises InvalidMessageError, Ending."""
        session = self._session
        match message:
            case m.SessionInitV2():
                text = "session_init_v2: the session has begun; open another connection for another"
                raise InvalidMessageError(text)
            case m.SegmentPromptSource():
                self._prompts.add(message)
            case m.SeedPromptsUpdated():
                session.curated_prompts = list(message.seed_prompts)
                self._prompts.restart_seeds()
            case m.EnhancementUpdated():
                session.enhancement_enabled = self._if_written(message.enabled)
            case m.AutoExtensionUpdated():
                session.auto_extension_enabled = self._if_written(message.enabled)
            case m.LoopGenerationUpdated():
                session.loop_generation_enabled = message.enabled
            case m.GenerationPausedUpdated():
                session.generation_paused = message.paused
            case m.SnapshotState():
                await self._send_snapshot()
            case m.RewritePrompt():
                await self._send_alternatives(message)
            case m.StopSession():
                raise endings.stopped()
            case m.LeaveSession():
                raise endings.leaves(message.seconds)
        if not isinstance(message, m.SnapshotState | m.RewritePrompt):
            self._prompts.changed()

    async def _tell_misspelt(self, message: m.ClientMessage) -> None:
        for name, hint in message.misspelt().items():
            text = f"{name}: is not a field of {message.type}, and is not read: {hint}"
            await self._outbox.put(m.FieldIgnored(message_type=message.type, field=name, message=text))

    def _if_written(self, enabled: bool) -> bool:
        """Raises InvalidMessageError: it is switched on, and nothing here writes prompts."""
        if enabled and not self._service.prompts.can_write:
            raise InvalidMessageError(endings.no_writer("enabled"))
        return enabled

    async def _send_snapshot(self) -> None:
        state = None if self._source is None else await self._source.snapshot()
        if state is None:
            text = "there is no continuation state yet: no segment of this session is made"
            await self._outbox.put(error_message("internal_error", text))
        else:
            await self._outbox.put(m.ContinuationStateSnapshot(state=state.as_json()))

    async def _send_alternatives(self, message: m.RewritePrompt) -> None:
        if not self._service.prompts.can_write:
            raise InvalidMessageError(endings.no_writer("rewrite_prompt"))
        try:
            answer = await self._service.prompts.rewrite(message.prompt, message.count, message.temperature)
        except SourceError as error:
            await self._outbox.put(error_message(error.code, error.message, retryable=error.retryable))
        else:
            await self._outbox.put(answer)

    # What is made for it

    async def _make(self, opening: Opening) -> None:
        """Bind a GPU, and have segments made until there may be no more. Raises Ending, SourceError."""
        source = self._source = self._service.make_source()
        assigned: Assigned | None = None
        waiting: Waiting | None = None
        try:
            async with asyncio.timeout(opening.timeout_s):
                async for place in source.open(opening):
                    if waiting is None:  # the source has found the session to be this owner's
                        self._displace_before()
                        self._service.watched[self._session.id] = self
                    await self._place(place, at_once=waiting is None)
                    if isinstance(place, Assigned):
                        assigned = place
                    else:
                        waiting = place
        except TimeoutError:
            raise no_gpu_in_time(opening.timeout_s, waiting) from None
        assert assigned is not None, "a source ends its opening with a GPU"
        first = assigned.next_segment + len(assigned.pending)
        own_cap = self._cap if assigned.segment_cap is None else assigned.segment_cap
        cap = own_cap if assigned.ended is None else first
        preparing = asyncio.create_task(self._prompts.run(first, cap, source.announce))
        try:
            teller = SegmentTeller(self._session, self._outbox.put, assigned)
            for request in assigned.pending:
                await self._made(source, Ready(request, time.monotonic()), teller)
            while self._session.segment_idx < cap:
                await self._made(source, await self._next_ready(preparing), teller)
        finally:
            preparing.cancel()
            await asyncio.gather(preparing, return_exceptions=True)
        raise endings.cap_reached() if assigned.ended is None else endings.ended_before(assigned.ended)

    async def _place(self, place: Waiting | Assigned, *, at_once: bool) -> None:
        """Tell the client its place in the queue, or its GPU: ``at_once`` where it had no place before."""
        session, put = self._session, self._outbox.put
        if isinstance(place, Waiting):
            if session.state is SessionState.INITIALIZING:
                session.transition(SessionState.QUEUED)
            place_of = {"position": place.position, "queue_depth": place.queue_depth, "session_id": session.id}
            why = {} if place.reason is None else {"reason": place.reason.code, "message": place.reason.text}
            await put(m.QueueStatus(**place_of, **why))
            return
        if at_once:
            await put(m.QueueStatus(position=0, queue_depth=0, session_id=session.id))
        session.transition(SessionState.GPU_BINDING)
        session.gpu_id, session.segment_idx = place.gpu_id, place.next_segment
        timeout_s = self._service.config.session_timeout_seconds
        named = {"session_id": session.id, "gpu_name": place.gpu_name, "gpu_type": place.gpu_type}
        stored = place.next_segment + len(place.pending)
        await put(m.GpuAssigned(gpu_id=place.gpu_id, session_timeout=timeout_s, stored_segments=stored, **named))
        session.transition(SessionState.ACTIVE)
        fps = int(place.fps) if place.fps == int(place.fps) else place.fps
        await put(
            m.StreamStart(
                preset=place.preset, width=place.width, height=place.height, fps=fps, num_frames=place.num_frames
            )
        )

    async def _next_ready(self, preparing: asyncio.Task[None]) -> Ready:
        """Return the next request. Raises Ending: nothing was asked for, for too long."""
        timeout_s = self._service.config.session_timeout_seconds
        getting = asyncio.create_task(self._prompts.get())
        try:
            while True:
                left = self._session.last_activity + timeout_s - time.monotonic()
                if left <= 0 and not self._prompts.busy:
                    raise endings.idle(timeout_s)
                patience_s = max(left, _BUSY_POLL_S)
                done, _ = await asyncio.wait(
                    {getting, preparing}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
                )
                if getting in done:
                    return getting.result()
                if preparing in done:
                    preparing.result()
        finally:
            getting.cancel()

    async def _made(self, source: SegmentSource, ready: Ready, teller: SegmentTeller) -> None:
        """Have one segment made, or say why it was not. Raises SourceError where no other can be."""
        try:
            await teller.follow(source, ready)
        except SourceError as error:
            if error.fatal:
                raise
            await self._outbox.put(error_message(error.code, error.message, retryable=error.retryable))
        self._session.segment_idx = ready.request.index + 1
        self._session.transition(SessionState.ACTIVE)


def _init_of(text: str | None) -> m.SessionInitV2:
    """Raises Ending: the first message is not what it must be."""
    try:
        if text is None:
            raise InvalidMessageError("it is binary; it must be JSON")
        init = m.CLIENT_MESSAGES.of_text(text)
    except InvalidMessageError as error:
        raise refused_init(f"the first message: {error}") from None
    if not isinstance(init, m.SessionInitV2):
        message = f"the first message is {init.type}; it must be session_init_v2"
        raise refused_init(message, "expected_session_init_v2")
    return init


def _state_of(given: dict[str, object] | None) -> ContinuationState | None:
    """Raises Ending: it is not a state."""
    if given is None:
        return None
    kind, payload = given.get("kind"), given.get("payload")
    if not isinstance(kind, str) or not isinstance(payload, dict):
        raise refused_init("continuation_state: is not an object with kind (text) and payload (object)")
    return ContinuationState(kind, payload)
