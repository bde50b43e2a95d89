"""A session's rows, as the server reads and changes them for one client. What goes wrong is a ``SourceError``."""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from db import api_keys
from db.session import Database
from db.sessions.rows import LEFT_UNTIL, SILENT_AUDIO, STREAM_MODE, VIEWER
from pipeline.encoding.live import Mode
from pipeline.errors import ConflictError, InputError, NotFoundError, QuotaError, ServiceUnavailableError, VgenError
from pipeline.settings import Settings
from pipeline.states import SessionState as RowState
from server.errors import of_vgen_error
from server.stream.config import RequestPart
from server.stream.endings import CLIENT_LEFT
from server.stream.line.errors import STATE_KIND, QuotaReachedError, continuation_of, of_opening, unexpected
from server.stream.session import SessionState
from server.stream.source import ContinuationState, Opening, SegmentRequest, SourceError
from service import sessions
from service.sessions import SessionChoices
from service.views.sessions import SessionView
from service.views.waiting import ReasonView

logger = logging.getLogger(__name__)

_TOUCH_S = 5.0
"""How often the rows are told that the client is there, and asked whether it still has the session."""
_AWAY_RETRY_S = 0.5
"""How often a database that is away is asked again."""
_CLOSE_PATIENCE_S = 30.0
"""So long a database that is away is waited for when a session is to be closed."""
_KEPT = ("client_id", "preset_label")
"""What the client says of itself, and is stored with its session."""
T = TypeVar("T")


class SessionRows:
    """The rows of one client's session. ``opening`` and ``view`` are there once it was opened."""

    def __init__(self, settings: Settings, database: Database, request: RequestPart) -> None:
        self._settings = settings
        self._database = database
        self._request = request
        self._opening: Opening | None = None
        self._view: SessionView | None = None
        self._opening_call: asyncio.Future[SessionView] | None = None
        self._touching: asyncio.Task[None] | None = None
        self._patience_s = 0.0
        """How long a database that is away is waited for."""
        self._is_cut_off = False
        """True once the database was away for longer: the session is left to whichever server its client comes to."""
        self._viewer = secrets.token_hex(8)

    @property
    def opening(self) -> Opening:
        assert self._opening is not None, "the session is opened first"
        return self._opening

    async def open(self, opening: Opening) -> SessionView:
        """Begin the session, or find the one that the client comes back to; it is kept alive from then on.

        Raises:
            SourceError: it cannot be.
        """
        self._opening = opening
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
        self._patience_s = opening.timeout_s
        opening = self._opening = _with_stored(opening, view)
        wanted = {STREAM_MODE: opening.mode.value, SILENT_AUDIO: opening.silent_audio}
        await self._ask(sessions.update_extra, opening.session_id, **wanted, **{VIEWER: self._viewer, LEFT_UNTIL: None})
        view = await self.look()  # whoever had it before may have asked for a segment until now
        self._touching = asyncio.create_task(self._touch())
        return view

    async def reason(self, segment: int | None = None) -> ReasonView | None:
        """Return why a segment is not at work, or the session has no GPU; None where it is. Raises SourceError."""
        if segment is None:
            return await self._ask(sessions.waiting_reason, self._settings, self.opening.session_id)
        return await self._ask(sessions.segment_reason, self._settings, self.opening.session_id, segment)

    async def snapshot(self) -> ContinuationState | None:
        """Return what the next segment would go on from; None before the first one."""
        snapshot = await self._ask(sessions.snapshot, self.opening.session_id)
        if snapshot is None or self._view is None:
            return None
        return ContinuationState(STATE_KIND, {"preset": self._view.preset, "state": snapshot})

    async def close(self, *, client_left: bool, state: SessionState, reason: str, kept_s: float | None = None) -> None:
        """End the session, unless it waits for its client to come back, or is another client's now."""
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
        if kept_s is not None:
            await self._ask(sessions.leave, view.id, kept_s=kept_s, viewer=self._viewer)

    async def _view_at_close(self) -> SessionView | None:
        """Return the session as it was last seen; None: this conversation has none."""
        if self._view is None:
            if self._opening_call is None:
                return None
            try:  # it was cancelled while the session was opened, which a thread goes on with
                return await self._opening_call
            except VgenError:
                return None
        return self._view

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
            extra={name: value for name in _KEPT if (value := getattr(opening, name)) is not None},
        )

    async def add(self, request: SegmentRequest) -> None:
        """Ask for a segment.

        Raises:
            SourceError: it is not fatal where this request alone cannot be; QuotaReachedError where its key may not
                have it now.
        """
        try:
            await self._call(
                sessions.add_segment,
                self._database,
                self._settings,
                self.opening.session_id,
                request.index,
                request.prompt,
                seed=request.seed,
                num_inference_steps=request.num_inference_steps,
                guidance_scale=request.guidance_scale,
                negative_prompt=request.negative_prompt,
                source=request.source,
                viewer=self._viewer,
            )
        except InputError as error:
            raise SourceError("invalid_message", of_vgen_error(error).message, fatal=False) from error
        except ConflictError as error:
            if (await self.look()).extra.get(VIEWER) != self._viewer:
                self.opening.on_displaced()
            raise SourceError("session_rejected", str(error), retryable=False) from error
        except QuotaError as error:
            raise QuotaReachedError(error) from error
        except VgenError as error:
            raise unexpected(error) from error

    async def look(self) -> SessionView:
        """Return the session as it is now. Raises SourceError."""
        self._view = await self._ask(sessions.session_view, self.opening.session_id)
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
        opening = self.opening
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


def _with_stored(opening: Opening, view: SessionView) -> Opening:
    """Return the opening with what the session was opened with, where a client that comes back says nothing else."""
    if not opening.resume:
        return opening
    mode, silent_audio = view.extra.get(STREAM_MODE), view.extra.get(SILENT_AUDIO)
    if "mode" in opening.unsaid and mode is not None:
        opening = replace(opening, mode=Mode(mode))
    if "silent_audio" in opening.unsaid and silent_audio is not None:
        opening = replace(opening, silent_audio=bool(silent_audio))
    return opening
