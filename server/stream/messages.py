"""The messages of ``/v1/stream``: JSON objects that name their kind in ``type``, as FastVideo's streaming server has
them (its ``protocol.py``, snapshot 2f3d4074).

They change by addition only: a new meaning is a new type, or a new field with a default. A message that the client
sends may have fields that are not known here; they are not read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from pipeline.encoding.live import Mode
from pipeline.names import check_text
from pipeline.nearest import did_you_mean

_M = TypeVar("_M")
MAX_PROMPT_CHARACTERS = 8000
MAX_SEED_PROMPTS = 100
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


class InvalidMessageError(ValueError):
    """What a client sent is not a message; the text says why."""


def _prompt(value: str) -> str:
    text = value.strip()
    if not text:
        raise ValueError("is empty")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise ValueError(f"has {len(text)} characters; at most {MAX_PROMPT_CHARACTERS} are allowed")
    return check_text(text, MAX_PROMPT_CHARACTERS)


def _prompts(values: list[str]) -> list[str]:
    if len(values) > MAX_SEED_PROMPTS:
        raise ValueError(f"has {len(values)} prompts; at most {MAX_SEED_PROMPTS} are allowed")
    return [_prompt(value) for value in values]


def _kept(value: str | None) -> str | None:
    return None if value is None else check_text(value, MAX_PROMPT_CHARACTERS, empty=True)


class _FromClient(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class SessionInitV2(_FromClient):
    """The first message of a client."""

    type: Literal["session_init_v2"]
    client_id: str | None = Field(None, max_length=200)
    preset: str | None = Field(None, max_length=200)
    preset_label: str | None = Field(None, max_length=200)
    curated_prompts: list[str] = Field(default_factory=list)
    initial_image: dict[str, Any] | None = None
    enhancement_enabled: bool = False
    auto_extension_enabled: bool = False
    loop_generation_enabled: bool = False
    single_clip_mode: bool = False
    stream_mode: Mode = Mode.AV_FMP4
    continuation_state: dict[str, Any] | None = None
    session_id: str | None = Field(None, max_length=64, description="Added: the session to go on with.")
    silent_audio: bool | None = Field(None, description="Added: whether there is a track of silence; None: as set.")
    after_segment: int = Field(-1, ge=-1, description="Added: the last segment that the client has whole.")

    _checked = field_validator("curated_prompts")(_prompts)
    _texts = field_validator("client_id", "preset", "session_id")(_kept)


class SegmentPromptSource(_FromClient):
    """Asks for the next segment."""

    type: Literal["segment_prompt_source"]
    prompt: str
    negative_prompt: str | None = Field(None, max_length=MAX_PROMPT_CHARACTERS)
    source: PromptSource = "user"
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    num_inference_steps: int | None = Field(None, ge=1, le=MAX_STEPS)
    guidance_scale: float | None = Field(None, ge=0, le=100)

    _checked = field_validator("prompt")(_prompt)
    _texts = field_validator("negative_prompt")(_kept)


class SeedPromptsUpdated(_FromClient):
    """Replaces the prompts that a loop goes through."""

    type: Literal["seed_prompts_updated"]
    seed_prompts: list[str] = Field(default_factory=list)

    _checked = field_validator("seed_prompts")(_prompts)


class EnhancementUpdated(_FromClient):
    """Switches the enhancement of prompts on or off."""

    type: Literal["enhancement_updated"]
    enabled: bool


class AutoExtensionUpdated(_FromClient):
    """Has a language model write the next prompt where the client sends none."""

    type: Literal["auto_extension_updated"]
    enabled: bool


class LoopGenerationUpdated(_FromClient):
    """Has the seed prompts used again and again where the client sends none."""

    type: Literal["loop_generation_updated"]
    enabled: bool


class GenerationPausedUpdated(_FromClient):
    """Holds the next segment back, or lets it go on; the one that is made is finished."""

    type: Literal["generation_paused_updated"]
    paused: bool


class SnapshotState(_FromClient):
    """Asks for the continuation state, which another server takes in its ``session_init_v2``."""

    type: Literal["snapshot_state"]


class RewritePrompt(_FromClient):
    """Added: asks for alternatives to a prompt."""

    type: Literal["rewrite_prompt"]
    prompt: str
    count: int = Field(3, ge=1, le=20)
    temperature: float | None = Field(None, ge=0, le=2)

    _checked = field_validator("prompt")(_prompt)


class StopSession(_FromClient):
    """Added: ends the session; the segment that is made is stopped."""

    type: Literal["stop_session"]


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
    | StopSession,
    Field(discriminator="type"),
]


class _FromServer(BaseModel):
    model_config = ConfigDict(frozen=True)


class QueueStatus(_FromServer):
    """Where the session waits for a GPU: 0 is not at all, 1 is next."""

    type: Literal["queue_status"] = "queue_status"
    position: int
    queue_depth: int
    session_id: str | None = Field(None, description="Added.")


class GpuAssigned(_FromServer):
    """A GPU is the session's; it closes after so many seconds in which nothing is asked for."""

    type: Literal["gpu_assigned"] = "gpu_assigned"
    gpu_id: int
    session_timeout: int
    session_id: str | None = Field(None, description="Added: names the session to whoever comes back to it.")
    gpu_name: str | None = Field(None, description="Added: the worker's name or the GPU's type.")


class StreamStart(_FromServer):
    """The size of all that follows: pixels, frames a second, and frames of a segment."""

    type: Literal["ltx2_stream_start"] = "ltx2_stream_start"
    preset: str | None = None
    width: int
    height: int
    fps: int | float
    num_frames: int


class SegmentStart(_FromServer):
    """A segment is begun; ``prompt`` is the one that is used."""

    type: Literal["ltx2_segment_start"] = "ltx2_segment_start"
    segment_idx: int
    prompt: str
    total_steps: int
    source: PromptSource = Field("user", description="Added: who wrote the prompt.")


class StepComplete(_FromServer):
    """A step of the work on a segment is done."""

    type: Literal["step_complete"] = "step_complete"
    segment_idx: int
    step: int
    total_steps: int
    stage: str = "denoise"


class MediaInit(_FromServer):
    """What the binary messages hold that follow: first the initialisation (none of pictures), then fragments."""

    type: Literal["media_init"] = "media_init"
    segment_idx: int
    mime: str
    stream_id: str
    mode: Mode = Mode.AV_FMP4


class MediaSegmentComplete(_FromServer):
    """All fragments of a segment were sent; ``pts_base_ms`` is when it begins in the session's own time."""

    type: Literal["media_segment_complete"] = "media_segment_complete"
    segment_idx: int
    stream_id: str
    chunks: int
    duration_ms: float | None = None
    pts_base_ms: float | None = None


class SegmentComplete(_FromServer):
    """A segment is made; the latency runs from when it was asked for to its last fragment."""

    type: Literal["ltx2_segment_complete"] = "ltx2_segment_complete"
    segment_idx: int
    generation_time_ms: float
    e2e_latency_ms: float | None = None


class StreamComplete(_FromServer):
    """Nothing will follow."""

    type: Literal["ltx2_stream_complete"] = "ltx2_stream_complete"
    reason: Reason = "stop_requested"


class SessionTimeout(_FromServer):
    """Nothing was asked for in so many seconds: the session is closed."""

    type: Literal["session_timeout"] = "session_timeout"
    timeout_seconds: int


class ContinuationStateSnapshot(_FromServer):
    """The state after the last segment that was made."""

    type: Literal["continuation_state_snapshot"] = "continuation_state_snapshot"
    state: dict[str, Any]


class PromptAlternatives(_FromServer):
    """Added: the answer to ``rewrite_prompt``."""

    type: Literal["prompt_alternatives"] = "prompt_alternatives"
    seed_prompt: str
    alternatives: list[str]
    provider: str
    model: str
    latency_ms: int


class ErrorMessage(_FromServer):
    """What went wrong, and whether it may go well later."""

    type: Literal["error"] = "error"
    code: ErrorCode = "internal_error"
    message: str
    retryable: bool = False


ServerMessage = Annotated[
    QueueStatus
    | GpuAssigned
    | StreamStart
    | SegmentStart
    | StepComplete
    | MediaInit
    | MediaSegmentComplete
    | SegmentComplete
    | StreamComplete
    | SessionTimeout
    | ContinuationStateSnapshot
    | PromptAlternatives
    | ErrorMessage,
    Field(discriminator="type"),
]
_CLIENT: TypeAdapter[ClientMessage] = TypeAdapter(ClientMessage)
CLIENT_TYPES = (
    *("session_init_v2", "segment_prompt_source", "seed_prompts_updated", "enhancement_updated"),
    *("auto_extension_updated", "loop_generation_updated", "generation_paused_updated", "snapshot_state"),
    *("rewrite_prompt", "stop_session"),
)


def parse_client_message(raw: object) -> ClientMessage:
    """Return the message that a JSON value is.

    Raises:
        InvalidMessageError: it is of no known type, or a field breaks its rule; the text names field, value and rule.
    """
    return _validated(_CLIENT, CLIENT_TYPES, raw)


def parse_text(text: str) -> ClientMessage:
    """Return the message that a text frame holds. Raises InvalidMessageError."""
    return parse_as(_CLIENT, CLIENT_TYPES, text)


def parse_as(adapter: TypeAdapter[_M], types: Sequence[str], text: str) -> _M:
    """Return the message of a union that a text frame holds; ``types`` are its kinds. Raises InvalidMessageError."""
    try:
        raw = json.loads(text)
    except RecursionError:
        raise InvalidMessageError("the message is nested too deep") from None
    except ValueError as error:
        raise InvalidMessageError(f"the message is not JSON: {error}") from None
    return _validated(adapter, types, raw)


def _validated(adapter: TypeAdapter[_M], types: Sequence[str], raw: object) -> _M:
    if not isinstance(raw, dict):
        raise InvalidMessageError("a message is a JSON object with a `type`")
    kind = raw.get("type")
    if kind not in types:
        hint = did_you_mean(kind, types)
        known = f"known types are {', '.join(types)}"
        raise InvalidMessageError(f"type: {kind!r:.80} is not a message of this protocol: {hint}{known}")
    try:
        return adapter.validate_python(raw)
    except ValidationError as error:
        raise InvalidMessageError("; ".join(_mistake(dict(item)) for item in error.errors())) from None


def _mistake(item: dict[str, Any]) -> str:
    field = ".".join(str(part) for part in item["loc"][1:]) or "message"
    if item["type"] == "missing":
        return f"{field}: is missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    given = item.get("input")
    shown = "" if isinstance(given, dict | list) else f"{given!r:.80} "
    return f"{field}: {shown}is not possible: {message}"
