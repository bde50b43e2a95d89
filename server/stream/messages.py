"""The messages of ``/v1/stream``: JSON objects that name their kind in ``type``, as FastVideo's streaming server has
them (its ``protocol.py``, snapshot 2f3d4074).

They change by addition only: a new meaning is a new type, or a new field with a default.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.encoding.live import Mode
from server.stream import wire
from server.stream.wire import FromClient, FromServer, MessageUnion, Prompt, Prompts, StorableText, Switch

MAX_STEPS = 1000
MAX_SEED = 2**63 - 1
PromptSource = Literal["curated", "enhanced", "user", "auto_extension"]
ErrorCode = Literal[
    "session_rejected",
    "invalid_message",
    "preset_mismatch",
    "gpu_unavailable",
    "worker_failed",
    "upstream_timeout",
    "internal_error",
]
Reason = Literal["segment_cap", "stop_requested", "error"]


class SessionInitV2(FromClient):
    """The first message of a client."""

    type: Literal["session_init_v2"]
    client_id: StorableText | None = Field(None, max_length=200)
    preset: StorableText | None = Field(None, max_length=200)
    preset_label: str | None = Field(None, max_length=200)
    curated_prompts: Prompts = Field(default_factory=list)
    initial_image: dict[str, Any] | None = None
    enhancement_enabled: bool = False
    auto_extension_enabled: bool = False
    loop_generation_enabled: bool = False
    single_clip_mode: bool = False
    stream_mode: Mode = Mode.AV_FMP4
    continuation_state: dict[str, Any] | None = None
    session_id: StorableText | None = Field(None, max_length=64, description="Added: the session to go on with.")
    silent_audio: bool | None = Field(None, description="Added: whether there is a track of silence; None: as set.")
    after_segment: int = Field(-1, ge=-1, description="Added: the last segment that the client has whole.")


class SegmentPromptSource(FromClient):
    """Asks for the next segment."""

    type: Literal["segment_prompt_source"]
    prompt: Prompt
    negative_prompt: StorableText | None = None
    source: PromptSource = "user"
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    num_inference_steps: int | None = Field(None, ge=1, le=MAX_STEPS)
    guidance_scale: float | None = Field(None, ge=0, le=100)


class SeedPromptsUpdated(FromClient):
    """Replaces the prompts that a loop goes through."""

    type: Literal["seed_prompts_updated"]
    seed_prompts: Prompts = Field(default_factory=list)


class EnhancementUpdated(Switch):
    """Switches the enhancement of prompts on or off."""

    type: Literal["enhancement_updated"]


class AutoExtensionUpdated(Switch):
    """Has a language model write the next prompt where the client sends none."""

    type: Literal["auto_extension_updated"]


class LoopGenerationUpdated(Switch):
    """Has the seed prompts used again and again where the client sends none."""

    type: Literal["loop_generation_updated"]


class GenerationPausedUpdated(FromClient):
    """Holds the next segment back, or lets it go on; the one that is made is finished."""

    type: Literal["generation_paused_updated"]
    paused: bool


class SnapshotState(FromClient):
    """Asks for the continuation state, which another server takes in its ``session_init_v2``."""

    type: Literal["snapshot_state"]


class RewritePrompt(FromClient):
    """Added: asks for alternatives to a prompt."""

    type: Literal["rewrite_prompt"]
    prompt: Prompt
    count: int = Field(3, ge=1, le=20)
    temperature: float | None = Field(None, ge=0, le=2)


class StopSession(FromClient):
    """Added: ends the session; the segment that is made is stopped."""

    type: Literal["stop_session"]


class LeaveSession(FromClient):
    """Added: the client goes away; the session ends unless it, or another, comes for it within ``seconds``."""

    type: Literal["leave_session"]
    seconds: float = Field(30, ge=0, le=3600)


ClientMessage = Annotated[
    SessionInitV2
    | SegmentPromptSource
    | SeedPromptsUpdated
    | EnhancementUpdated
    | AutoExtensionUpdated
    | LoopGenerationUpdated
    | GenerationPausedUpdated
    | SnapshotState
    | RewritePrompt
    | StopSession
    | LeaveSession,
    Field(discriminator="type"),
]


class QueueStatus(FromServer):
    """Where the session waits for a GPU: 0 is not at all, 1 is next."""

    type: Literal["queue_status"] = "queue_status"
    position: int
    queue_depth: int
    session_id: str | None = Field(None, description="Added.")
    reason: str | None = Field(None, description="Added: a code, such as model_missing or reserved_for_sessions.")
    message: str = Field("", description="Added: the reason in words.")


class GpuAssigned(wire.GpuAssigned):
    """A GPU is the session's; it closes after so many seconds in which nothing is asked for."""

    session_id: str | None = Field(None, description="Added: names the session to whoever comes back to it.")
    gpu_name: str | None = Field(None, description="Added: the name of the worker that has the GPU.")
    gpu_type: str | None = Field(None, description="Added: on another type of GPU, frames may differ.")
    stored_segments: int | None = Field(None, description="Added: so many segments have stored prompts.")


class StreamStart(FromServer):
    """The size of all that follows: pixels, frames a second, and frames of a segment."""

    type: Literal["ltx2_stream_start"] = "ltx2_stream_start"
    preset: str | None = None
    width: int
    height: int
    fps: int | float
    num_frames: int


class SegmentStart(FromServer):
    """A segment is begun; ``prompt`` is the one that is used."""

    type: Literal["ltx2_segment_start"] = "ltx2_segment_start"
    segment_idx: int
    prompt: str
    total_steps: int
    source: PromptSource = Field("user", description="Added: who wrote the prompt.")


class SegmentWaiting(FromServer):
    """Added: the segment is not at work, and why; where ``reason`` is null, what held it up is over."""

    type: Literal["segment_waiting"] = "segment_waiting"
    segment_idx: int
    reason: str | None = Field(description="A code, such as held, batch_paused, store_away or no_worker.")
    message: str = Field("", description="The reason in words.")
    needs: Literal["person", "service", "worker"] | None = Field(None, description="What has to happen.")


class StepComplete(FromServer):
    """A step of the work on a segment is done."""

    type: Literal["step_complete"] = "step_complete"
    segment_idx: int
    step: int
    total_steps: int
    stage: str = "denoise"


class MediaSegmentComplete(wire.MediaSegmentComplete):
    """All fragments of a segment were sent; ``pts_base_ms`` is when it begins in the session's own time."""

    duration_ms: float | None = None
    pts_base_ms: float | None = None


class SegmentComplete(FromServer):
    """A segment is made; the latency runs from when it was asked for to its last fragment."""

    type: Literal["ltx2_segment_complete"] = "ltx2_segment_complete"
    segment_idx: int
    generation_time_ms: float
    e2e_latency_ms: float | None = None


class StreamComplete(FromServer):
    """Nothing will follow."""

    type: Literal["ltx2_stream_complete"] = "ltx2_stream_complete"
    reason: Reason = "stop_requested"


class SessionTimeout(FromServer):
    """Nothing was asked for in so many seconds: the session is closed."""

    type: Literal["session_timeout"] = "session_timeout"
    timeout_seconds: int


class ContinuationStateSnapshot(FromServer):
    """The state after the last segment that was made."""

    type: Literal["continuation_state_snapshot"] = "continuation_state_snapshot"
    state: dict[str, Any]


class PromptAlternatives(FromServer):
    """Added: the answer to ``rewrite_prompt``."""

    type: Literal["prompt_alternatives"] = "prompt_alternatives"
    seed_prompt: str
    alternatives: list[str]
    provider: str
    model: str
    latency_ms: int


class FieldIgnored(FromServer):
    """Added: a message had a field that is not known, but looks like a known one that is misspelt; it is not read."""

    type: Literal["field_ignored"] = "field_ignored"
    message_type: str
    field: str
    message: str


class ErrorMessage(FromServer):
    """What went wrong, and whether it may go well later."""

    type: Literal["error"] = "error"
    code: ErrorCode = "internal_error"
    message: str
    retryable: bool = False
    prompt: str | None = Field(None, description="Added: the prompt that it is about, as the client sent it.")


ServerMessage = Annotated[
    QueueStatus
    | GpuAssigned
    | StreamStart
    | SegmentStart
    | SegmentWaiting
    | StepComplete
    | wire.MediaInit
    | MediaSegmentComplete
    | SegmentComplete
    | StreamComplete
    | SessionTimeout
    | ContinuationStateSnapshot
    | PromptAlternatives
    | FieldIgnored
    | ErrorMessage,
    Field(discriminator="type"),
]
CLIENT_MESSAGES: MessageUnion[ClientMessage] = MessageUnion(ClientMessage)
