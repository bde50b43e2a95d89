"""What a job is: one clip, one seed, everything decided.

``JobSpec`` is stored as JSON in the job's row and is never changed; a worker reads it and nothing else to know what
to make. Field names are those of diffusers' pipelines.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_SEED = 2**63 - 1
"""torch.Generator.manual_seed takes 64 bits; a signed 64-bit column holds up to here."""


class InputRef(BaseModel):
    """An input file, stored under its digest at submit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    media_type: str
    name: str
    """What the submitter called it, for people only."""
    num_frames: int | None = None
    """Of a video."""

    @property
    def key(self) -> str:
        """Where the bytes are in the store."""
        return f"inputs/{self.sha256}"


class JobSpec(BaseModel):
    """One clip to make. Every default has been applied; sizes are pixels, ``fps`` frames a second."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    prompt: str
    negative_prompt: str | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    preset: str
    preset_digest: str | None = None
    """Of a user's own preset, as it was at submit: a worker whose preset differs refuses the job."""
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
    gpu: tuple[str, ...] = ()
    """GPU types that may make it; empty means any that the preset fits."""
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    custom_id: str | None = None
    labels: dict[str, str] = {}
    enhance: bool = False

    @property
    def input_refs(self) -> tuple[InputRef, ...]:
        """Every stored input that it names."""
        single = (self.image, self.last_image, self.video)
        return (*(ref for ref in single if ref is not None), *self.reference_images)

    @property
    def seconds(self) -> float:
        return self.num_frames / self.fps


class EncodeOptions(BaseModel):
    """How a batch's clips are encoded; the same fields as the ``encode`` settings, pinned at submit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    codec: str = "libx264"
    quality: int = 18
    preset: str = "medium"
    threads: int = 2


class BatchOptions(BaseModel):
    """What holds for every job of a batch, pinned at submit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    safety_policy: Literal["closed", "open", "hold"] = "closed"
    encode: EncodeOptions = EncodeOptions()
