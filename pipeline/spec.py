"""The specification of a job: one clip, one seed, everything decided.

``JobSpec`` is stored as JSON in the job's row and is never changed; a worker reads it and nothing else to know what
to make. Field names are those of diffusers' pipelines.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from pipeline.acceleration import PLAIN, Acceleration
from pipeline.names import check_gpu_type, check_labels

MAX_SEED = 2**63 - 1
"""torch.Generator.manual_seed takes 64 bits; a signed 64-bit column holds up to here."""
MAX_SEGMENTS = 256
"""The most segments of one clip: some twenty minutes of five seconds each."""


class InputRef(BaseModel):
    """An input file, stored under its digest at submit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    media_type: str
    name: str
    """The submitter's name for it, for people only."""
    num_frames: int | None = None
    """The number of a video's frames."""
    notes: tuple[str, ...] = ()
    """Properties of the file that the clip does not show, a sentence's end each, as "is animated: …"."""

    @model_serializer(mode="wrap")
    def _without_empty_notes(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out notes where there are none: rows that an older worker reads, and digests, stay as they were."""
        values: dict[str, Any] = handler(self)
        if not self.notes:
            values.pop("notes", None)
        return values

    @property
    def key(self) -> str:
        """Return where the bytes are in the store."""
        return f"inputs/{self.sha256}"


class LoraRef(BaseModel):
    """A LoRA that changes the model for one job; its file is stored as an input is."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    file: InputRef
    scale: float = 1.0
    """The strength: diffusers' adapter weight."""
    repo: str | None = None
    """The hub's id, where it came from there."""
    revision: str | None = None
    """The commit there."""
    load_into_transformer_2: bool = False
    """True if it changes the second of a model's two denoisers."""


class Beginning(BaseModel):
    """A finished clip that another one begins with, as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    video: InputRef
    """Its file, with ``num_frames``."""
    frames_sha256: tuple[str, ...]
    """The digests of its segments' raw frames, in order."""


class JobSpec(BaseModel):
    """One clip to make. Every default has been applied; sizes are pixels, ``fps`` frames a second."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    prompt: str
    negative_prompt: str | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    preset: str
    preset_digest: str | None = None
    """The digest of a user's own preset at submit: a worker whose preset differs refuses the job."""
    random_weights: bool = False
    """True for a user's own preset of a model that was never trained; presets of the catalogue say it themselves."""
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    num_frames: Annotated[int, Field(ge=1)]
    fps: Annotated[float, Field(gt=0, le=240)]
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)]
    guidance_scale: Annotated[float, Field(ge=0)]
    guidance_scale_2: Annotated[float, Field(ge=0)] | None = None
    image: InputRef | None = None
    last_image: InputRef | None = None
    video: InputRef | None = None
    reference_images: tuple[InputRef, ...] = ()
    gpu: tuple[Annotated[str, AfterValidator(check_gpu_type)], ...] = ()
    """GPU types that may make it; empty means any that the preset fits."""
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    custom_id: str | None = None
    labels: Annotated[dict[str, str], AfterValidator(check_labels)] = {}
    enhance: bool = False
    acceleration: Acceleration = PLAIN
    segments: Annotated[int, Field(ge=1, le=MAX_SEGMENTS)] = 1
    """The number of stretches of ``num_frames``; each goes on from the last frames of the one before."""
    segment_prompts: tuple[str, ...] = ()
    """A prompt for each segment; empty: ``prompt`` for each, or the enhancer's versions (``auto_extend``)."""
    auto_extend: bool = False
    """The enhancer writes the prompt of each segment after the first from the one before."""
    seam_frames: Annotated[int, Field(ge=0)] = 0
    """Frames at a segment's end that the next one is conditioned on, and repeats; they are in the clip once."""
    extends: str | None = None
    """The finished job whose last frames the first segment goes on from."""
    begins_with: Beginning | None = None
    """That job's clip, where it is to be the beginning of this one; None: the clip is what is new."""
    loras: tuple[LoraRef, ...] = ()

    @model_validator(mode="after")
    def _prompts_fit(self) -> Self:
        if self.segment_prompts and len(self.segment_prompts) != self.segments:
            raise ValueError(f"{len(self.segment_prompts)} segment_prompts for {self.segments} segments")
        return self

    @property
    def input_refs(self) -> tuple[InputRef, ...]:
        """Every stored input that it names."""
        before = None if self.begins_with is None else self.begins_with.video
        single = (self.image, self.last_image, self.video, before)
        files = (lora.file for lora in self.loras)
        return (*(ref for ref in single if ref is not None), *self.reference_images, *files)

    @property
    def seconds(self) -> float:
        """Return the seconds of video that are generated."""
        return self.total_frames / self.fps

    @property
    def total_frames(self) -> int:
        """Frames that are generated for the clip."""
        return sum(self.frames_of(segment) for segment in range(self.segments))

    @property
    def frames_before(self) -> int:
        """Frames of the clip that it begins with."""
        return 0 if self.begins_with is None else self.begins_with.video.num_frames or 0

    @property
    def clip_frames(self) -> int:
        """Frames of the published clip."""
        return self.frames_before + self.total_frames

    def continues(self, segment: int) -> bool:
        """Return whether that segment (from 0) goes on from an earlier one."""
        return segment > 0 or self.extends is not None

    def frames_of(self, segment: int) -> int:
        """Frames that a segment adds to the clip: without those that it repeats."""
        return self.num_frames - (self.seam_frames if self.continues(segment) else 0)

    def prompt_of(self, segment: int) -> str:
        """The prompt of a segment as it was submitted."""
        return self.segment_prompts[segment] if self.segment_prompts else self.prompt


class EncodeOptions(BaseModel):
    """The encoding of a batch's clips; the same fields as the ``encode`` settings, pinned at submit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    codec: str = "libx264"
    quality: int = 18
    preset: str = "superfast"
    threads: int = 2


MAX_REROLL = 20
SUITE_ENTRY_LABEL = "suite.entry"
"""The label of a job that is a clip of an evaluation suite: which of the suite's entries, from 0."""


class ScoreOptions(BaseModel):
    """The scoring of a batch's clips before they are published. Names and rules were checked at submit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metrics: Annotated[tuple[str, ...], Field(min_length=1)]
    """Metrics and groups, as they were given."""
    gate: tuple[str, ...] = ()
    """Rules of ``pipeline.scoring.gate``; none: every clip is accepted."""
    reroll: Annotated[int, Field(ge=0, le=MAX_REROLL)] = 0
    """The number of times a clip that the gate rejects is made again."""


class BatchOptions(BaseModel):
    """The options of every job of a batch, pinned at submit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    safety_policy: Literal["closed", "open", "hold"] = "closed"
    must_screen: bool | None = None
    """True where the policy was asked for by name: then a worker without a classifier does not skip the screening."""
    encode: EncodeOptions = EncodeOptions()
    score: ScoreOptions | None = None
    session: str | None = None
    """The session that the batch belongs to: each job goes on from the one that it ``extends`` as soon as that one's
    frames are generated."""

    def as_json(self) -> dict[str, Any]:
        """Return what is stored: without unset fields, so that equal submissions stay equal."""
        return self.model_dump(mode="json", exclude_none=True)
