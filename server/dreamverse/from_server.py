"""What Dreamverse's page reads on ``/ws`` (FastVideo's ``apps/dreamverse``, snapshot 2f3d4074).

Messages are JSON objects that name their kind in ``type``. Segments count from 1. Their media are binary
messages between ``media_init`` and ``media_segment_complete``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.stream import wire
from server.stream.wire import FromServer

Source = Literal["curated", "user_raw", "user_enhanced", "auto_llm"]
"""Who wrote a segment's prompt."""
Count = Annotated[int, Field(ge=0)]


class QueueStatus(FromServer):
    """Where the session waits for a GPU: 0 is not at all, 1 is next. The first is sent before the client's init."""

    type: Literal["queue_status"] = "queue_status"
    position: int
    total_gpus: int
    available_gpus: int


class GpuAssigned(wire.GpuAssigned):
    """A GPU is the session's; the connection closes after so many seconds, whatever happens."""


class SessionTimeout(FromServer):
    """The session's time is over."""

    type: Literal["session_timeout"] = "session_timeout"
    message: str


class ProjectIdle(FromServer):
    """The project has ended, and so many prompts that waited were dropped; ``project_init_v1`` begins another."""

    type: Literal["project_idle"] = "project_idle"
    dropped_user_raw_queue: Count = 0
    dropped_user_ready_queue: Count = 0


class ErrorMessage(FromServer):
    """What went wrong; the session goes on unless a close follows."""

    type: Literal["error"] = "error"
    message: str
    error_code: str | None = None


class StreamStart(FromServer):
    """The project's first segment, or its first one anew, comes next."""

    type: Literal["ltx2_stream_start"] = "ltx2_stream_start"
    total_segments: int
    preset_id: str | None
    stream_mode: Literal["av_fmp4"] = "av_fmp4"
    live_mode: bool = True
    loop_generation_enabled: bool
    loop_iteration: int
    generation_segment_cap: int


class SegmentStart(FromServer):
    """A segment is begun; ``prompt`` is the one that is used."""

    type: Literal["ltx2_segment_start"] = "ltx2_segment_start"
    segment_idx: int
    total_segments: int
    prompt: str
    source: Source
    seed_prompt_index: int | None
    loop_iteration: int


class Latency(FromServer):
    """Milliseconds of a segment: from its choice to its last fragment, of the work on it, and the rest."""

    total: float
    worker_e2e: float
    main_user_step: float
    overhead: float


class StepComplete(FromServer):
    """A segment is made: how long that took."""

    type: Literal["step_complete"] = "step_complete"
    latency_ms: Latency


class SegmentComplete(FromServer):
    """A segment is made."""

    type: Literal["ltx2_segment_complete"] = "ltx2_segment_complete"
    segment_idx: int
    total_segments: int


class StreamComplete(FromServer):
    """Nothing follows before the client asks for more."""

    type: Literal["ltx2_stream_complete"] = "ltx2_stream_complete"


class SeedPromptsUpdated(FromServer):
    """The seed prompts are these now."""

    type: Literal["seed_prompts_updated"] = "seed_prompts_updated"
    prompts: list[str]
    preset_id: str | None
    preset_label: str | None
    reason: Literal["init", "rewrite"]
    seed_prompt_count: int
    fallback_used: bool = False
    error: str | None = None
    model: str | None = None
    latency_ms: float | None = None
    rewrite_instruction: str | None = None


class SeedPromptsResetPending(FromServer):
    """The seed prompts begin anew once the segment that is made has ended."""

    type: Literal["seed_prompts_reset_pending"] = "seed_prompts_reset_pending"
    seed_prompt_count: int


class SeedPromptsResetApplied(FromServer):
    """The seed prompts have begun anew, and so many prompts that waited were dropped."""

    type: Literal["seed_prompts_reset_applied"] = "seed_prompts_reset_applied"
    reason: str
    loop_iteration: int
    seed_prompt_count: int
    dropped_user_raw_queue: Count = 0
    dropped_user_ready_queue: Count = 0


class PromptReceived(FromServer):
    """A prompt of the client waits, with so many."""

    type: Literal["prompt_received"] = "prompt_received"
    prompt_id: str
    queue_depth: int


class PromptEnhancing(FromServer):
    """A language model has the prompt."""

    type: Literal["prompt_enhancing"] = "prompt_enhancing"
    prompt_id: str


class PromptReady(FromServer):
    """A prompt of the client is ready for its segment."""

    type: Literal["prompt_ready"] = "prompt_ready"
    prompt_id: str
    prompt: str
    source: Source
    latency_ms: float


class PromptFallbackUsed(FromServer):
    """No language model enhanced the prompt, and no segment is made of it."""

    type: Literal["prompt_fallback_used"] = "prompt_fallback_used"
    prompt_id: str
    prompt: str
    source: Literal["user_enhancement_failed"] = "user_enhancement_failed"
    latency_ms: float
    error: str


class SegmentPromptSource(FromServer):
    """Who wrote the prompt of the segment that comes next."""

    type: Literal["segment_prompt_source"] = "segment_prompt_source"
    segment_idx: int
    source: Source
    prompt_id: str | None
    fallback_used: bool = False
    seed_prompt_index: int | None
    loop_iteration: int


class RewriteSeedPromptsStarted(FromServer):
    """A language model has the seed prompts."""

    type: Literal["rewrite_seed_prompts_started"] = "rewrite_seed_prompts_started"
    model: str


class RewriteSeedPromptsComplete(FromServer):
    """The seed prompts were rewritten; with ``fallback_used`` they were not, and ``error`` says why."""

    type: Literal["rewrite_seed_prompts_complete"] = "rewrite_seed_prompts_complete"
    fallback_used: bool
    error: str | None = None
    preset_id: str | None = None
    preset_label: str | None = None
    model: str
    latency_ms: float


class PromptSourcesBlocked(FromServer):
    """No prompt is left for this segment."""

    type: Literal["prompt_sources_blocked"] = "prompt_sources_blocked"
    segment_idx: int


class PromptSourcesResumed(FromServer):
    """There is a prompt again."""

    type: Literal["prompt_sources_resumed"] = "prompt_sources_resumed"
    segment_idx: int
    source: Source
    prompt_id: str | None


class AutoPromptFailed(FromServer):
    """No language model wrote the prompt of this segment; it is not asked again for it."""

    type: Literal["auto_prompt_failed"] = "auto_prompt_failed"
    segment_idx: int
    latency_ms: float
    error: str


class EnhancementUpdated(FromServer):
    """Whether the client's prompts are enhanced."""

    type: Literal["enhancement_updated"] = "enhancement_updated"
    enabled: bool


class AutoExtensionUpdated(FromServer):
    """Whether a language model writes prompts where none is left."""

    type: Literal["auto_extension_updated"] = "auto_extension_updated"
    enabled: bool


class LoopGenerationUpdated(FromServer):
    """Whether the seed prompts begin anew where none is left."""

    type: Literal["loop_generation_updated"] = "loop_generation_updated"
    enabled: bool


class GenerationPausedUpdated(FromServer):
    """Whether the next segment is held back."""

    type: Literal["generation_paused_updated"] = "generation_paused_updated"
    paused: bool


class RewriteModelUpdated(FromServer):
    """The language model that rewrites."""

    type: Literal["rewrite_model_updated"] = "rewrite_model_updated"
    rewrite_model: str


class RewriteTemperatureUpdated(FromServer):
    """How freely it rewrites; null: as it is set on the server."""

    type: Literal["rewrite_temperature_updated"] = "rewrite_temperature_updated"
    rewrite_temperature: float | None


class GenerationCapReached(FromServer):
    """As many segments were made as may be: a rewrite or ``restart_generation`` begins anew."""

    type: Literal["generation_cap_reached"] = "generation_cap_reached"
    segment_cap: int
    generated_segments: int


class GenerationRestarted(FromServer):
    """The segments are counted from nothing again."""

    type: Literal["generation_restarted"] = "generation_restarted"
    reason: Literal["cap_restart"] = "cap_restart"
    segment_cap: int


class LoopRestarted(FromServer):
    """The seed prompts begin anew by themselves."""

    type: Literal["loop_restarted"] = "loop_restarted"
    loop_iteration: int
    seed_prompt_count: int
    dropped_user_raw_queue: Count = 0
    dropped_user_ready_queue: Count = 0


ServerMessage = Annotated[
    QueueStatus
    | GpuAssigned
    | SessionTimeout
    | ProjectIdle
    | ErrorMessage
    | StreamStart
    | SegmentStart
    | wire.MediaInit
    | wire.MediaSegmentComplete
    | StepComplete
    | SegmentComplete
    | StreamComplete
    | SeedPromptsUpdated
    | SeedPromptsResetPending
    | SeedPromptsResetApplied
    | PromptReceived
    | PromptEnhancing
    | PromptReady
    | PromptFallbackUsed
    | SegmentPromptSource
    | RewriteSeedPromptsStarted
    | RewriteSeedPromptsComplete
    | PromptSourcesBlocked
    | PromptSourcesResumed
    | AutoPromptFailed
    | EnhancementUpdated
    | AutoExtensionUpdated
    | LoopGenerationUpdated
    | GenerationPausedUpdated
    | RewriteModelUpdated
    | RewriteTemperatureUpdated
    | GenerationCapReached
    | GenerationRestarted
    | LoopRestarted,
    Field(discriminator="type"),
]
