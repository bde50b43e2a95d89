"""Segments that the line makes: a session in the rows, and the frames that its workers hand over.

The rows say how far a segment is. Its media are encoded here from the frames as they are written, where this host has
them; else, and for a client that comes back late, from the published clip.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator

from db.reading.reasons import Code, Needs
from db.session import Database
from db.sessions.upkeep import OVER_BUDGET, SILENT
from pipeline.settings import Settings
from pipeline.states import SessionState as RowState
from pipeline.states import StepState
from server.stream.config import RequestPart
from server.stream.line.errors import QuotaReachedError, ended, lost
from server.stream.line.media import LineMedia
from server.stream.line.rows import SessionRows
from server.stream.session import SessionState
from server.stream.source import (
    Assigned,
    ContinuationState,
    Done,
    OnHold,
    Opening,
    Rebound,
    SegmentEvent,
    SegmentRequest,
    SessionTimedOutError,
    SourceError,
    Started,
    Step,
    Waiting,
)
from service.views.sessions import SessionView, StreamSegmentView
from service.views.waiting import ReasonView

_POLL_S = 0.1
"""How often the rows are asked while something is waited for; media are not waited for in them."""
_REASON_S = 1.0
"""A segment of which nobody has a step in hand may be on its way to one for so long, before it is asked why."""
_QUOTA_RETRY_S = 1.0
"""How often a segment is asked for again whose key has as many jobs open as it may have."""
_LOST = frozenset({"failed", "blocked", "cancelled"})
_NUMBER = re.compile(r"gpu(\d+)")
"""The device's number in a worker's name (``tasks.node_name``)."""


class LineSource:
    """One session of the line."""

    def __init__(self, settings: Settings, database: Database, request: RequestPart) -> None:
        self._settings = settings
        self._rows = SessionRows(settings, database, request)
        self._put_off: set[int] = set()
        """Segments that were announced and could not be asked for yet: they are when it is their turn."""

    async def open(self, opening: Opening) -> AsyncIterator[Waiting | Assigned]:
        view = await self._rows.open(opening)
        told: Waiting | None = None
        ask_at, reason = time.monotonic() + _REASON_S, None
        while view.ended_at is not None or not _is_bound(view):
            if view.ended_at is not None:  # its GPU may be reserved for some moments more
                if _lacks_some(view, opening):
                    break
                raise ended(view)
            if time.monotonic() >= ask_at:
                ask_at = time.monotonic() + _REASON_S
                reason = _on_hold(await self._rows.reason())
            place = Waiting((view.queue_position or 0) + 1, max(view.queue_depth, 1), reason)
            if place != told:
                yield place
                told = place
            await asyncio.sleep(_POLL_S)
            view = await self._rows.look()
        first = min(opening.after_segment + 1, len(view.segments)) if opening.resume else 0
        yield Assigned(
            _gpu_number(view.gpu),
            view.width,
            view.height,
            view.fps,
            view.num_frames,
            view.preset,
            view.gpu,
            view.gpu_type,
            next_segment=first,
            pending=tuple(_request_of(segment) for segment in view.segments[first:]),
            timeout_s=round(opening.timeout_s),
            segment_cap=view.segment_cap,
            pts_base_ms=sum(each.num_frames or 0 for each in view.segments[:first]) / view.fps * 1000,
            ended=None if view.ended_at is None else view.end_reason or "",
        )

    async def announce(self, request: SegmentRequest) -> None:
        """Ask for a segment ahead of its turn. What a quota does not allow yet is asked for at its turn."""
        if self._put_off:  # segments are asked for in their order
            self._put_off.add(request.index)
            return
        try:
            await self._rows.add(request)
        except QuotaReachedError:
            self._put_off.add(request.index)

    async def start_segment(self, request: SegmentRequest) -> AsyncIterator[SegmentEvent]:
        begun = time.monotonic()
        view = await self._rows.look()
        if request.index >= len(view.segments):
            view = await self._asked_for(request)
        segment, gpu = view.segments[request.index], view.gpu
        total_steps = request.num_inference_steps or view.num_inference_steps
        yield Started(total_steps, segment.prompt)
        media = LineMedia(self._settings, view, request.index, self._rows.opening)
        hold = _Hold(self._rows, request.index)
        async with contextlib.aclosing(media):
            step, sent_all, generated_at = 0, False, None
            while not (sent_all and segment.generated):
                if segment.state in _LOST:
                    raise lost(segment)
                if not segment.generated and segment.step_state != StepState.RUNNING.value:
                    _check_not_over(view)
                for number in range(step + 1, _steps_of(segment, total_steps) + 1):
                    step = number
                    yield Step(number, total_steps)
                if view.gpu is not None and view.gpu != gpu:
                    gpu = view.gpu
                    yield Rebound(_gpu_number(gpu), gpu, view.gpu_type)
                if (changed := await hold.look(segment)) is not None:
                    yield changed
                if segment.generated and generated_at is None:
                    generated_at = time.monotonic()
                media.tell(view)
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
                view = await self._rows.look()
                segment = view.segments[request.index]
        took_s = (generated_at or time.monotonic()) - begun
        yield Done(took_s * 1000, await self.snapshot())

    async def _asked_for(self, request: SegmentRequest) -> SessionView:
        """Ask for the segment, again and again while other jobs of its key have to end first. Raises SourceError."""
        give_up_at = time.monotonic() + self._rows.opening.timeout_s
        while True:
            try:
                await self._rows.add(request)
                break
            except QuotaReachedError as error:
                if not error.passes or time.monotonic() > give_up_at:
                    raise
            await asyncio.sleep(_QUOTA_RETRY_S)
        self._put_off.discard(request.index)
        return await self._rows.look()

    async def snapshot(self) -> ContinuationState | None:
        return await self._rows.snapshot()

    async def close(self, *, client_left: bool, state: SessionState, reason: str, kept_s: float | None = None) -> None:
        await self._rows.close(client_left=client_left, state=state, reason=reason, kept_s=kept_s)


def _check_not_over(view: SessionView) -> None:
    """Raises SourceError: the session has ended, and what nobody has in hand is not waited for any more."""
    if view.end_reason == OVER_BUDGET:
        text = f"the session has ended: {OVER_BUDGET}; nothing more is generated for it"
        raise SourceError("session_rejected", text, retryable=False)
    if view.end_reason == SILENT:
        raise SessionTimedOutError


class _Hold:
    """Finds out why a segment is not at work. That is asked seldom, and not of one whose worker has it in hand."""

    def __init__(self, rows: SessionRows, segment: int) -> None:
        self._rows = rows
        self._segment = segment
        self._ask_at = time.monotonic() + _REASON_S
        self._told = OnHold()

    async def look(self, segment: StreamSegmentView) -> OnHold | None:
        """Return what has changed since it was last asked; None: nothing. Raises SourceError."""
        at_work = segment.step_state == StepState.RUNNING.value
        if not at_work and time.monotonic() < self._ask_at:
            return None
        self._ask_at = time.monotonic() + _REASON_S
        reason = None if at_work else await self._rows.reason(self._segment)
        goes_on = reason is None or reason.needs == Needs.NOTHING.value
        now = OnHold() if reason is None or goes_on else OnHold(reason.code, reason.text, reason.needs)
        if now == self._told:
            return None
        self._told = now
        return now


def _on_hold(reason: ReasonView | None) -> OnHold | None:
    """Return why a session has no GPU; None where it only waits for its turn."""
    if reason is None or reason.code == Code.IN_TURN.value:
        return None
    return OnHold(reason.code, reason.text, reason.needs)


def _lacks_some(view: SessionView, opening: Opening) -> bool:
    """Return whether a client that comes back to a session which has ended lacks a segment that there is."""
    return opening.resume and any(each.generated for each in view.segments[opening.after_segment + 1 :])


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
