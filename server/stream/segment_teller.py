"""What a client is told of a segment while it is made."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import cast

from pydantic import BaseModel

from pipeline.redaction import redact
from server.stream import messages as m
from server.stream import wire
from server.stream.endings import error_message
from server.stream.prompt_queue import Ready
from server.stream.session import Session
from server.stream.source import (
    Assigned,
    Done,
    Media,
    MediaBegin,
    MediaEnd,
    Notice,
    OnHold,
    Rebound,
    SegmentEvent,
    SegmentRequest,
    SegmentSource,
    SourceError,
    Started,
    Step,
)

Put = Callable[[BaseModel | bytes], Awaitable[None]]


class SegmentTeller:
    """Turns what a source says into messages, in the order in which it is said."""

    def __init__(self, session: Session, put: Put, assigned: Assigned) -> None:
        self._session = session
        self._put = put
        self._pts_base_ms = assigned.pts_base_ms
        self._timeout_s = assigned.timeout_s
        self._stream_id = ""

    async def follow(self, source: SegmentSource, ready: Ready) -> None:
        """Have a segment made, and tell all of it. Raises SourceError."""
        request = ready.request
        done: Done | None = None
        duration_ms: float | None = None
        events = cast(AsyncGenerator[SegmentEvent, None], source.start_segment(request))
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, Done):
                    done = event
                elif isinstance(event, MediaEnd):
                    duration_ms = event.duration_ms
                await self._tell(request, event)
        if done is None or duration_ms is None:
            raise SourceError("worker_failed", f"the segment with segment_idx {request.index} ended without its frames")
        self._pts_base_ms += duration_ms
        took_ms, latency_ms = round(done.generation_time_ms, 1), round((time.monotonic() - ready.asked_at) * 1000, 1)
        await self._put(
            m.SegmentComplete(segment_idx=request.index, generation_time_ms=took_ms, e2e_latency_ms=latency_ms)
        )

    async def _tell(self, request: SegmentRequest, event: SegmentEvent) -> None:
        index, put = request.index, self._put
        match event:
            case Started(total_steps, prompt):
                source = request.source
                await put(m.SegmentStart(segment_idx=index, prompt=prompt, total_steps=total_steps, source=source))
            case Step(step, total_steps, stage):
                await put(m.StepComplete(segment_idx=index, step=step, total_steps=total_steps, stage=stage))
            case MediaBegin(stream_id, mime, mode, init):
                self._stream_id = stream_id
                await put(wire.MediaInit(segment_idx=index, mime=mime, stream_id=stream_id, mode=mode))
                if init:
                    await put(init)
            case Media(_, data):
                await put(data)
            case MediaEnd(chunks, duration_ms):
                base_ms, duration_ms = round(self._pts_base_ms, 3), round(duration_ms, 3)
                await put(
                    m.MediaSegmentComplete(
                        segment_idx=index,
                        stream_id=self._stream_id,
                        chunks=chunks,
                        duration_ms=duration_ms,
                        pts_base_ms=base_ms,
                    )
                )
            case Rebound(gpu_id, gpu_name, gpu_type):
                named = {"session_id": self._session.id, "gpu_name": gpu_name, "gpu_type": gpu_type}
                await put(m.GpuAssigned(gpu_id=gpu_id, session_timeout=self._timeout_s, **named))
            case OnHold(reason, text, needs):
                said = redact(text)
                await put(m.SegmentWaiting(segment_idx=index, reason=reason, message=said, needs=needs))
            case Notice(code, message):
                await put(error_message(code, message, retryable=True))
