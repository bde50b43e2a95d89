"""What a client of the line is told when something cannot be: the line's errors in the protocol's words."""

from __future__ import annotations

from typing import Any

from pipeline.errors import (
    ConflictError,
    GpuUnavailableError,
    InputError,
    NotFoundError,
    QuotaError,
    ServiceUnavailableError,
    SessionRejectedError,
    TooManyAtOnceError,
    VgenError,
)
from server.errors import of_vgen_error
from server.stream.source import ContinuationState, SourceError
from service.views.sessions import SessionView, StreamSegmentView

STATE_KIND = "vgen.session.v1"
"""The kind of a session's continuation state."""


class QuotaReachedError(SourceError):
    """The session's key may not have the segment: ``passes`` says whether it may once some of its jobs have ended."""

    def __init__(self, error: QuotaError) -> None:
        later = error.retry_after_s is not None
        super().__init__("session_rejected", str(error), retryable=later)
        self.passes = isinstance(error, TooManyAtOnceError)


def ended(view: SessionView) -> SourceError:
    """What a client is told that comes for a session which has ended."""
    clip = "" if view.joined_job is None else f"; its clip is job {view.joined_job}"
    text = f"session {view.id} has ended ({view.end_reason}) and is not gone on with{clip}: open a new one"
    return SourceError("session_rejected", text, retryable=False)


def unexpected(error: VgenError) -> SourceError:
    """What a client is told of an error that is not its own; where a service is, is no business of clients."""
    if isinstance(error, ServiceUnavailableError):
        return SourceError("internal_error", "the database is away; what was asked for is kept: come back later")
    return SourceError("internal_error", str(error))


def lost(segment: StreamSegmentView) -> SourceError:
    """What a client is told of a segment that is not made; its session goes on."""
    if segment.state == "blocked":
        text = f"prompt: {segment.error or 'it was turned down'}; write another"
        return SourceError("invalid_message", text, fatal=False)
    why = segment.error or segment.error_code
    if why is None:
        why = "somebody asked for that" if segment.state == "cancelled" else "without a reason"
    text = f"the segment with segment_idx {segment.segment} is {segment.state}: {why}"
    return SourceError("worker_failed", text, fatal=False)


def continuation_of(state: ContinuationState) -> dict[str, Any]:
    """The line's own state within a client's. Raises SourceError: it is of another kind."""
    inner = state.payload.get("state")
    if state.kind != STATE_KIND or not isinstance(inner, dict):
        text = f"continuation_state.kind: {state.kind!r:.60} is not {STATE_KIND!r}, the one that is read here"
        raise SourceError("preset_mismatch", text, retryable=False)
    return inner


def of_opening(error: VgenError) -> SourceError:
    """What a client is told whose session is not opened."""
    if isinstance(error, SessionRejectedError):
        return SourceError("session_rejected", str(error))
    if isinstance(error, GpuUnavailableError):
        return SourceError("gpu_unavailable", str(error))
    if isinstance(error, NotFoundError | ConflictError):
        return SourceError("session_rejected", str(error), retryable=False)
    if isinstance(error, InputError):
        about_preset = any(problem.field in ("preset", "continuation_state") for problem in error.problems)
        code = "preset_mismatch" if about_preset else "invalid_message"
        return SourceError(code, of_vgen_error(error).message, retryable=False)  # type: ignore[arg-type]
    return unexpected(error)
