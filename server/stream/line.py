"""Segments that the line makes: a session in the rows, and the frames that its workers hand over.

The rows say how far a segment is. Its media are encoded here from the frames as they are written, where this host has
them; else, and for a client that comes back late, from the published clip.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from db import api_keys
from db.session import Database
from db.sessions.rows import SILENT_AUDIO, STREAM_MODE, VIEWER
from db.sessions.upkeep import OVER_BUDGET
from pipeline.errors import ConflictError, InputError, NotFoundError, QuotaError, ServiceUnavailableError, VgenError
from pipeline.settings import Settings
from pipeline.states import SessionState as RowState
from server.errors import of_vgen_error
from server.stream.config import RequestPart
from server.stream.endings import CLIENT_LEFT
from server.stream.line_errors import (
    STATE_KIND,
    QuotaReachedError,
    continuation_of,
    ended,
    lost,
    of_opening,
    unexpected,
)
from server.stream.line_media import LineMedia
from server.stream.session import SessionState
from server.stream.source import (
    Assigned,
    ContinuationState,
    Done,
    Opening,
    Rebound,
    SegmentEvent,
    SegmentRequest,
    SourceError,
    Started,
    Step,
    Waiting,
)
from service import sessions
from service.sessions import SessionChoices
from service.views.sessions import SessionView, StreamSegmentView

logger = logging.getLogger(__name__)

_POLL_S = 0.1
"""How often the rows are asked while something is waited for; media are not waited for in them."""
_TOUCH_S = 5.0
"""How often the rows are told that the client is there, and asked whether it still has the session."""
_QUOTA_RETRY_S = 1.0
"""How often a segment is asked for again whose key has as many jobs open as it may have."""
_AWAY_RETRY_S = 0.5
"""How often a database that is away is asked again."""
_CLOSE_PATIENCE_S = 30.0
"""So long a database that is away is waited for when a session is to be closed."""
_LOST = frozenset({"failed", "blocked", "cancelled"})
_NUMBER = re.compile(r"gpu(\d+)")
"""The device's number in a worker's name (``tasks.node_name``)."""
T = TypeVar("T")


class LineSource:
    """One session of the line."""

    def __init__(self, settings: Settings, database: Database, request: RequestPart) -> None:
        self._settings = settings
        self._database = database
        self._request = request
        self._opening: Opening | None = None
        self._view: SessionView | None = None
        self._opening_call: asyncio.Future[SessionView] | None = None
        self._put_off: set[int] = set()
        """Segments that were announced and could not be asked for yet: they are when it is their turn."""
        self._touching: asyncio.Task[None] | None = None
        self._patience_s = 0.0
        """How long a database that is away is waited for."""
        self._is_cut_off = False
        """True once the database was away for longer: the session is left to whichever server its client comes to."""
        self._viewer = secrets.token_hex(8)

    async def open(self, opening: Opening) -> AsyncIterator[Waiting | Assigned]:
        self._opening = opening
        view = await self._opened(opening)
        self._patience_s = opening.timeout_s
        self._touching = asyncio.create_task(self._touch())
        told: Waiting | None = None
        while view.ended_at is not None or not _is_bound(view):
            if view.ended_at is not None:  # its GPU may be reserved for some moments more
                raise ended(view)
            place = Waiting((view.queue_position or 0) + 1, max(view.queue_depth, 1))
            if place != told:
                yield place
                told = place
            await asyncio.sleep(_POLL_S)
            view = await self._look()
        first = min(opening.after_segment + 1, len(view.segments)) if opening.resume else 0
        yield Assigned(
            _gpu_number(view.gpu),
            view.width,
            view.height,
            view.fps,
            view.num_frames,
            view.preset,
            view.gpu,
            next_segment=first,
            pending=tuple(_request_of(segment) for segment in view.segments[first:]),
            timeout_s=round(opening.timeout_s),
            pts_base_ms=sum(each.num_frames or 0 for each in view.segments[:first]) / view.fps * 1000,
        )

    async def announce(self, request: SegmentRequest) -> None:
        """Ask for a segment ahead of its turn. What a quota does not allow yet is asked for at its turn."""
        if self._put_off:  # segments are asked for in their order
            self._put_off.add(request.index)
            return
        try:
            await self._add(request)
        except QuotaReachedError:
            self._put_off.add(request.index)

    async def start_segment(self, request: SegmentRequest) -> AsyncIterator[SegmentEvent]:
        begun, opening = time.monotonic(), self._opening
        assert opening is not None
        view = await self._look()
        if request.index >= len(view.segments):
            view = await self._asked_for(request)
        segment, gpu = view.segments[request.index], view.gpu
        total_steps = request.num_inference_steps or view.num_inference_steps
        yield Started(total_steps, segment.prompt)
        media = LineMedia(self._settings, view, request.index, opening)
        async with contextlib.aclosing(media):
            step, sent_all, generated_at = 0, False, None
            while not (sent_all and segment.generated):
                if segment.state in _LOST:
                    raise lost(segment)
                if view.end_reason == OVER_BUDGET and not segment.generated and segment.step_state != "running":
                    text = f"the session has ended: {OVER_BUDGET}; nothing more is generated for it"
                    raise SourceError("session_rejected", text, retryable=False)
                for number in range(step + 1, _steps_of(segment, total_steps) + 1):
                    step = number
                    yield Step(number, total_steps)
                if view.gpu is not None and view.gpu != gpu:
                    gpu = view.gpu
                    yield Rebound(_gpu_number(gpu), gpu)
                if segment.generated and generated_at is None:
                    generated_at = time.monotonic()
                media.tell(segment)
                until = time.monotonic() + _POLL_S
                while not sent_all and (left := until - time.monotonic()) > 0:
                    event = await media.next(left)
                    if event is None:
                        continue
                    while step < total_steps:  # frames come after the last step
                        step += 1
                        yield Step(step, total_steps)
                    yield event
                    sent_all = media.complete
                if sent_all and not segment.generated:
                    await asyncio.sleep(_POLL_S / 5)
                view = await self._look()
                segment = view.segments[request.index]
        took_s = (generated_at or time.monotonic()) - begun
        yield Done(took_s * 1000, await self.snapshot())

    async def _asked_for(self, request: SegmentRequest) -> SessionView:
        """Ask for the segment, again and again while other jobs of its key have to end first. Raises SourceError."""
        assert self._opening is not None
        give_up_at = time.monotonic() + self._opening.timeout_s
        while True:
            try:
                await self._add(request)
                break
            except QuotaReachedError as error:
                if not error.passes or time.monotonic() > give_up_at:
                    raise
            await asyncio.sleep(_QUOTA_RETRY_S)
        self._put_off.discard(request.index)
        return await self._look()

    async def snapshot(self) -> ContinuationState | None:
        assert self._opening is not None
        snapshot = await self._ask(sessions.snapshot, self._opening.session_id)
        if snapshot is None or self._view is None:
            return None
        return ContinuationState(STATE_KIND, {"preset": self._view.preset, "state": snapshot})

    async def close(self, *, client_left: bool, state: SessionState, reason: str) -> None:
        if self._touching is not None:
            self._touching.cancel()
            await asyncio.gather(self._touching, return_exceptions=True)
        if self._is_cut_off:
            return
        self._patience_s = min(self._patience_s, _CLOSE_PATIENCE_S)
        if (view := await self._view_at_close()) is None or (client_left and reason != CLIENT_LEFT):
            return
        row_state = RowState(state.value) if state.value in {each.value for each in RowState} else RowState.ERROR
        await self._ask(
            sessions.close_session,
            view.id,
            reason=reason,
            state=row_state,
            cancel_open=state is not SessionState.COMPLETE or reason == "stop_requested",
            viewer=self._viewer,
            only_unused=client_left,  # one for which something was made waits for its client until it times out
        )

    async def _view_at_close(self) -> SessionView | None:
        """Return the session as it is now; None: this conversation has none."""
        if self._view is None:
            if self._opening_call is None:
                return None
            try:  # it was cancelled while the session was opened, which a thread goes on with
                return await self._opening_call
            except VgenError:
                return None
        return self._view

    async def _opened(self, opening: Opening) -> SessionView:
        """Raises SourceError."""
        try:
            if opening.resume:
                view = await asyncio.to_thread(
                    sessions.session_view, self._database, opening.session_id, owner=opening.owner
                )
                if view.id != opening.session_id:  # a person may shorten an id, a client may not
                    raise NotFoundError(f"session {opening.session_id!r} does not exist")
            else:
                self._opening_call = asyncio.ensure_future(
                    asyncio.to_thread(
                        sessions.open_session,
                        self._database,
                        self._settings,
                        self._choices(opening),
                        owner=opening.owner,
                        session_id=opening.session_id,
                    )
                )
                view = await asyncio.shield(self._opening_call)
        except VgenError as error:
            raise of_opening(error) from error
        self._view = view
        if view.ended_at is None:
            wanted = {STREAM_MODE: opening.mode.value, SILENT_AUDIO: opening.silent_audio}
            await self._ask(sessions.update_extra, opening.session_id, **wanted, **{VIEWER: self._viewer})
        return view

    def _choices(self, opening: Opening) -> SessionChoices:
        sampling, image = self._request.sampling, opening.image
        return SessionChoices(
            preset=opening.preset,
            width=sampling.width,
            height=sampling.height,
            num_frames=sampling.num_frames,
            fps=sampling.fps,
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            negative_prompt=self._request.negative_prompt,
            seed=sampling.seed,
            image=None if image is None else f"data:{image.mime};base64,{base64.b64encode(image.data).decode()}",
            continuation=None if opening.state is None else continuation_of(opening.state),
            segment_cap=opening.segment_cap,
            timeout_s=opening.timeout_s,
            extra={} if opening.client_id is None else {"client_id": opening.client_id},
        )

    async def _add(self, request: SegmentRequest) -> None:
        """Raises SourceError; one that is not fatal where this request alone cannot be."""
        assert self._opening is not None
        try:
            await self._call(
                sessions.add_segment,
                self._database,
                self._settings,
                self._opening.session_id,
                request.index,
                request.prompt,
                seed=request.seed,
                num_inference_steps=request.num_inference_steps,
                guidance_scale=request.guidance_scale,
                negative_prompt=request.negative_prompt,
                source=request.source,
            )
        except InputError as error:
            raise SourceError("invalid_message", of_vgen_error(error).message, fatal=False) from error
        except ConflictError as error:
            if (await self._look()).extra.get(VIEWER) != self._viewer:
                self._opening.on_displaced()
            raise SourceError("session_rejected", str(error), retryable=False) from error
        except QuotaError as error:
            raise QuotaReachedError(error) from error
        except VgenError as error:
            raise unexpected(error) from error

    async def _look(self) -> SessionView:
        assert self._opening is not None
        self._view = await self._ask(sessions.session_view, self._opening.session_id)
        return self._view

    async def _ask(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Raises SourceError: the database is away for long, or the session gone."""
        try:
            return await self._call(call, self._database, *arguments, **options)
        except VgenError as error:
            raise unexpected(error) from error

    async def _call(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Call what reads or writes rows, in a thread. A database that is away is waited for, and then left: nothing
        of the session is lost with it. Raises VgenError."""
        give_up_at = time.monotonic() + self._patience_s
        while True:
            try:
                return await asyncio.to_thread(call, *arguments, **options)
            except ServiceUnavailableError:
                if time.monotonic() >= give_up_at:
                    self._is_cut_off = True
                    raise
            await asyncio.sleep(_AWAY_RETRY_S)

    async def _touch(self) -> None:
        """Let the rows know that the client is there, as long as no other has come for its session."""
        opening = self._opening
        assert opening is not None
        while True:
            await asyncio.sleep(min(_TOUCH_S, opening.timeout_s / 3))
            try:
                view = await asyncio.to_thread(sessions.session_view, self._database, opening.session_id)
                if view.extra.get(VIEWER) != self._viewer:
                    opening.on_displaced()
                    return
                if opening.key_id is not None and not await asyncio.to_thread(self._is_usable, opening.key_id):
                    opening.on_key_lost()
                    return
                await asyncio.to_thread(sessions.touch, self._database, opening.session_id)
            except VgenError as error:  # it is tried again
                logger.warning("a session was not touched", extra={"reason": str(error)})

    def _is_usable(self, key_id: str) -> bool:
        with self._database.reading() as session:
            return api_keys.usable(session, key_id)


def _is_bound(view: SessionView) -> bool:
    return view.gpu_ready or view.state == RowState.ACTIVE.value


def _steps_of(segment: StreamSegmentView, total: int) -> int:
    if segment.generated or segment.stage not in ("generate", None):
        return total if segment.generated else 0
    if segment.phase == "denoise":
        return min(segment.step, total)
    return total if segment.phase in ("decode", "hand_off") else 0


def _request_of(segment: StreamSegmentView) -> SegmentRequest:
    return SegmentRequest(segment.segment, segment.prompt, segment.source)  # type: ignore[arg-type]


def _gpu_number(name: str | None) -> int:
    match = _NUMBER.search(name or "")
    return int(match[1]) if match else 0
