"""What each stage records for later stages; stored as JSON in its step's row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from pipeline.states import Stage

PACKETS = "packets_sha256"
"""The key of a probe under which a file's ``pipeline.media.packets.packets_sha256`` is kept."""


class StageOutput(BaseModel):
    """A part of what a stage records. It knows what was given to it: the rest is not written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def from_row(cls, stored: Mapping[str, Any] | None) -> Self | None:
        """Return the output that a row keeps; None where the stage recorded nothing."""
        return cls.model_validate(stored) if stored else None

    def as_json(self) -> dict[str, Any]:
        """Return the output as a row keeps it."""
        return self.model_dump(mode="json", exclude_unset=True)


class ObjectRef(StageOutput):
    """An object in the store."""

    key: str
    sha256: str
    size: int


class EnhancedPrompt(StageOutput):
    """One prompt, and what it was made from; who made it, where it is not what was written."""

    prompt: str
    original: str
    provider: str | None = None
    model: str | None = None
    latency_ms: int | None = None
    fallback_used: bool | None = None


class EnhanceOutput(EnhancedPrompt):
    """The clip's prompt, the first segment's. Nothing is recorded where no prompt was asked for."""

    prompts: tuple[str, ...] = ()
    """The prompts of all segments, where there are several."""
    segments: tuple[EnhancedPrompt, ...] = ()


class ScreenOutput(StageOutput):
    """The verdict on the clip's texts."""

    screened: bool
    reason: str
    decision: str | None = None
    """A ``pipeline.safety.result.SafetyDecision``; None where no classifier is configured."""
    score: float | None = None
    label: str | None = None
    text: str | None = None
    """The text that decided: ``original``, ``enhanced``, ``segment 2``, …"""
    model_version: str | None = None
    threshold: float | None = None
    policy: str | None = None


class SoundOutput(StageOutput):
    """A clip's raw sound, which lies at ``pipeline.generators.base.sound_path``; see ``RawSound`` there."""

    sample_rate: int
    channels: int
    num_samples: int
    sha256: str


class TokensRead(StageOutput):
    """The tokens of a text that was cut."""

    read: int
    of: int


class GenerateFacts(StageOutput):
    """What the generator says of one clip; what is not named here is for people to read."""

    model_config = ConfigDict(extra="allow")

    acceleration: dict[str, Any] = {}
    memory_rung: str = "plain"
    tokens_read: dict[str, TokensRead] = {}
    """By field, of texts that the model did not read to their end."""
    negative_prompt_used: bool = True
    denoise_steps: int | None = None
    resumed_from_step: int | None = None
    checkpoint_unusable: str | None = None
    final_checkpoint: str | None = None
    """``not kept``, where it could not be."""


class GenerateOutput(StageOutput):
    """The frames of a segment, and how they were made."""

    frames_sha256: str
    frames_path: str
    handoff_id: str
    num_frames: int
    height: int
    width: int
    prompt: str
    """The prompt that was used."""
    numerics: dict[str, Any]
    model_revision: str
    timings_s: dict[str, float]
    peak_memory_bytes: int | None
    gpu_type: str | None
    facts: GenerateFacts = Field(default_factory=GenerateFacts)
    sound: SoundOutput | None = None


class SoundPart(ObjectRef):
    """A segment's raw sound in the store."""

    sample_rate: int
    channels: int


class Part(ObjectRef):
    """The encoded file of a segment that is not the clip's last."""

    sound: SoundPart | None = None


class EncodeOutput(StageOutput):
    """The clip's files in the store, or the ``part`` of a segment that is not the clip's last."""

    video: ObjectRef | None = None
    poster: ObjectRef | None = None
    strip: ObjectRef | None = None
    sidecar: ObjectRef | None = None
    part: Part | None = None
    probe: dict[str, Any]
    """``pipeline.encoding.probe.VideoFacts`` as JSON, and under ``PACKETS`` the digest of the file's packets."""
    files: dict[str, str] = {}
    """The files that are still in the hand-off directory for the score stage, by kind."""

    def file(self, kind: str) -> ObjectRef:
        """Return the clip's file of that kind (``pipeline.files.object_names.MEDIA_TYPES``)."""
        ref: ObjectRef | None = getattr(self, kind)
        assert ref is not None, f"{kind}: only the last segment has the clip's files"
        return ref


class ScoreOutput(StageOutput):
    """The gate's answer."""

    accepted: bool
    reason: str | None
    """Why the clip was rejected."""
    seed: int
    """The seed of the scored roll."""
    scores: dict[str, float | None]
    replaced: dict[str, ObjectRef] = {}
    """Files, by kind, that are published in place of encode's: the sidecar with the scores in it."""


class PublishOutput(StageOutput):
    """The keys of the published files."""

    video: str
    poster: str
    strip: str
    sidecar: str


@dataclass(frozen=True, slots=True)
class StageOutputs:
    """What was recorded of one segment; of a stage that has not ended, or recorded nothing, None."""

    enhance: EnhanceOutput | None = None
    screen: ScreenOutput | None = None
    generate: GenerateOutput | None = None
    encode: EncodeOutput | None = None
    score: ScoreOutput | None = None
    publish: PublishOutput | None = None

    @classmethod
    def from_rows(cls, stored: Mapping[Stage, Mapping[str, Any] | None]) -> StageOutputs:
        """Return the outputs that rows keep."""
        return cls(**{stage.value: _MODELS[stage].from_row(output) for stage, output in stored.items()})  # type: ignore[arg-type]  # a stage's model is its field's

    @property
    def generated(self) -> GenerateOutput:
        """Return generate's output, for a stage after it."""
        assert self.generate is not None, "generate recorded nothing"
        return self.generate

    @property
    def encoded(self) -> EncodeOutput:
        """Return encode's output, for a stage after it."""
        assert self.encode is not None, "encode recorded nothing"
        return self.encode


_MODELS: dict[Stage, type[StageOutput]] = {
    Stage.ENHANCE: EnhanceOutput,
    Stage.SCREEN: ScreenOutput,
    Stage.GENERATE: GenerateOutput,
    Stage.ENCODE: EncodeOutput,
    Stage.SCORE: ScoreOutput,
    Stage.PUBLISH: PublishOutput,
}
