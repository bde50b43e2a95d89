"""The seam between a session and what makes its segments."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.encoding.live import Mode
from server.stream.init_image import InitImage
from server.stream.messages import ErrorCode, PromptSource
from server.stream.session import SessionState


@dataclass(frozen=True, slots=True)
class ContinuationState:
    """What a later segment goes on from: ``kind`` names who can read ``payload``, which is JSON."""

    kind: str
    payload: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "payload": self.payload}


@dataclass(frozen=True, slots=True)
class Opening:
    """What a session begins with."""

    session_id: str
    owner: str
    key_id: str | None = None
    client_id: str | None = None
    preset_label: str | None = None
    preset: str | None = None
    image: InitImage | None = None
    state: ContinuationState | None = None
    mode: Mode = Mode.AV_FMP4
    silent_audio: bool = False
    unsaid: frozenset[str] = frozenset()
    """Which of ``mode`` and ``silent_audio`` the client did not say: a session that it comes back to keeps its own."""
    segment_cap: int = 6
    timeout_s: float = 300
    resume: bool = False
    """True where the client comes back to a session that it had."""
    after_segment: int = -1
    on_displaced: Callable[[], None] = lambda: None
    """Called when the session is another client's now, perhaps on another server."""
    on_key_lost: Callable[[], None] = lambda: None
    """Called when the key ``key_id`` was revoked, or has expired."""


@dataclass(frozen=True, slots=True)
class SegmentRequest:
    """One segment to make."""

    index: int
    prompt: str
    source: PromptSource = "user"
    negative_prompt: str | None = None
    seed: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """No GPU is free: so many sessions wait, this one at that place (1 is next)."""

    position: int
    queue_depth: int
    reason: OnHold | None = None
    """Why there is no GPU; None where that is not known."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """A GPU is bound: sizes in pixels, frames a second, frames of a segment; the segment that comes next."""

    gpu_id: int
    width: int
    height: int
    fps: float
    num_frames: int
    preset: str | None = None
    gpu_name: str | None = None
    gpu_type: str | None = None
    next_segment: int = 0
    """The segment that the client is sent first."""
    pending: tuple[SegmentRequest, ...] = ()
    """Segments from there on that were asked for before: the client came back."""
    timeout_s: int = 300
    segment_cap: int | None = None
    """The most segments of a session that the client came back to; None: as the client's first message says."""
    pts_base_ms: float = 0
    """When ``next_segment`` begins in the session's own time."""
    ended: str | None = None
    """Why the session has ended: its client came back for what is pending, and no more is made."""


@dataclass(frozen=True, slots=True)
class Started:
    """The segment is begun, with so many steps, and with the prompt that is used."""

    total_steps: int
    prompt: str


@dataclass(frozen=True, slots=True)
class Step:
    """A step is done."""

    step: int
    total_steps: int
    stage: str = "denoise"


@dataclass(frozen=True, slots=True)
class MediaBegin:
    """A stream of media begins; ``init`` may be empty. Another ``stream_id`` begins the segment anew."""

    stream_id: str
    mime: str
    mode: Mode
    init: bytes


@dataclass(frozen=True, slots=True)
class Media:
    """A fragment, or a picture."""

    index: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class MediaEnd:
    """All media of the segment came."""

    chunks: int
    duration_ms: float


@dataclass(frozen=True, slots=True)
class OnHold:
    """The segment is not at work, and something has to happen first; without a ``code`` that is over."""

    code: str | None = None
    """The reason's code, as ``vgen sessions show --json`` has it: ``held``, ``batch_paused``, ``no_worker``, …"""
    text: str = ""
    needs: str | None = None
    """What has to happen: a ``person``'s word, a ``service`` that is away, a ``worker`` that can do it."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the client is told while the segment goes on."""

    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class Done:
    """The segment is made."""

    generation_time_ms: float
    state: ContinuationState | None = None


@dataclass(frozen=True, slots=True)
class Rebound:
    """Another GPU has the session now."""

    gpu_id: int
    gpu_name: str | None = None
    gpu_type: str | None = None


SegmentEvent = Started | Step | MediaBegin | Media | MediaEnd | OnHold | Notice | Rebound | Done


class SourceError(Exception):
    """Making segments failed: the code and message that the client is told, and whether it may go well later."""

    def __init__(self, code: ErrorCode, message: str, *, retryable: bool = True, fatal: bool = True) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message
        self.retryable = retryable
        self.fatal = fatal
        """False where the session goes on: the prompt was turned down, not the work on it."""


class SessionTimedOutError(SourceError):
    """The session's time was over while a segment waited for something that has to happen first."""

    def __init__(self) -> None:
        super().__init__("session_rejected", "the session timed out while its segment was not at work", retryable=False)


def no_gpu_in_time(timeout_s: float, waiting: Waiting | None) -> SourceError:
    """Return the end of a session that waited so long for a GPU; ``waiting`` is what was last known."""
    why = "try again later" if waiting is None or waiting.reason is None else waiting.reason.text
    return SourceError("gpu_unavailable", f"no GPU was free for {timeout_s:g} s: {why}")


class SegmentSource(Protocol):
    """What makes the segments of one session, one after the other."""

    def open(self, opening: Opening) -> AsyncIterator[Waiting | Assigned]:
        """Bind a GPU; the last value is ``Assigned``. Raises SourceError."""

    def start_segment(self, request: SegmentRequest) -> AsyncIterator[SegmentEvent]:
        """Make a segment; the last event is ``Done``. Whoever leaves early stops it. Raises SourceError."""

    async def announce(self, request: SegmentRequest) -> None:
        """Hear which segment will be started next, perhaps while the one before is made. Raises SourceError."""

    async def snapshot(self) -> ContinuationState | None:
        """Return the state after the last segment that was made; None before the first."""

    async def close(self, *, client_left: bool, state: SessionState, reason: str, kept_s: float | None = None) -> None:
        """Give the GPU back. With ``client_left`` a source that outlives its client may keep the session for it, for
        ``kept_s`` seconds where the client said how long."""
