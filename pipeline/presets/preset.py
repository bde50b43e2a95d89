"""The schema of a preset: model, pipeline class, rules and defaults."""

import json
import tomllib
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipeline.acceleration import PLAIN, Acceleration
from pipeline.digests import sha256_hex
from pipeline.errors import NotFoundError
from pipeline.presets.rules import FrameRule, PresetData, SizeRule
from pipeline.rates import check_rate

CATALOGUE = Path(__file__).parent / "catalogue"


class Workload(StrEnum):
    """The inputs that a pipeline takes: text only, an image, either, or a video."""

    T2V = "t2v"
    I2V = "i2v"
    TI2V = "ti2v"
    V2V = "v2v"


class Defaults(PresetData):
    """Values for what a job does not say; the limits are those of ``JobSpec``."""

    width: int = Field(ge=1)
    height: int = Field(ge=1)
    num_frames: int = Field(ge=1)
    fps: float = Field(gt=0, le=240)
    num_inference_steps: int = Field(ge=1, le=1000)
    guidance_scale: float = Field(ge=0)
    guidance_scale_2: float | None = Field(None, ge=0)
    negative_prompt: str | None = None


class Continuation(PresetData):
    """The way the model continues a segment: real frames go in, and the new segment begins with them."""

    frames: int = Field(1, ge=1)
    """The number of last frames that it is conditioned on, and repeats."""
    pipeline_class: str | None = None
    """The class in diffusers that takes them, made of the loaded pipeline's components; None: the preset's own."""
    argument: str = "image"
    """The argument of its call that takes them."""
    takes: Literal["image", "videos", "conditions"] = "image"
    """One picture, the last; a list of videos, of which the frames are the one; or LTX-2's conditions, likewise."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Configuration of that class, where it differs from the loaded pipeline's."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of its call."""


class Published(PresetData):
    """What a public source says of a model's needs, under its own conditions: it is shown, and decides nothing."""

    source: str = Field(pattern=r"^https://\S+$")
    conditions: str
    """The clip and the code that it was measured with."""
    gpu: str | None = None
    seconds: float | None = Field(None, gt=0)
    """Of one clip, on ``gpu``."""
    memory_gb: float | None = Field(None, gt=0)

    def __str__(self) -> str:
        facts = [
            None if self.seconds is None else f"{self.seconds:g} s a clip on {self.gpu or 'an unnamed GPU'}",
            None if self.memory_gb is None else f"{self.memory_gb:g} GB of GPU memory",
        ]
        return f"{', '.join(fact for fact in facts if fact)} ({self.conditions}): {self.source}"


_NO_MATTER = frozenset(
    {"description", "family", "licence", "memory_gib", "memory_source", "published", "hidden", "resumable"}
    | {"inputs", "required_inputs", "acceleration", "unused_weights", "world"}
    | {"frames", "size", "defaults"}
)
"""Fields of a preset that change no frame of a job whose values are all decided."""


class Preset(PresetData):
    """One model as vgen runs it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    version: int = Field(ge=1)
    description: str
    family: str
    workload: Workload
    inputs: tuple[Literal["last_image", "video", "reference_images"], ...] = ()
    """The inputs that a job may give besides those of the workload."""
    required_inputs: tuple[Literal["last_image", "video", "reference_images"], ...] = ()
    """Those of ``inputs`` that the pipeline cannot do without."""
    repo: str
    """Hub id, or a name of vgen's own: of a model that is built in code, or whose weights are installed."""
    revision: str = "main"
    """Branch, tag or commit; ``vgen models pull`` resolves and pins it."""
    pipeline_class: str
    """Name of a class in diffusers."""
    dtype: Literal["float32", "float16", "bfloat16"]
    vae_dtype: Literal["float32", "float16", "bfloat16"] | None = None
    random_weights: bool = False
    """True for a built-in model whose weights are made, not trained: every output says so."""
    memory_gib: float | None = Field(None, ge=0)
    """GPU memory needed at the defaults; None is unknown."""
    memory_source: str | None = None
    """The page on which ``memory_gib`` is published."""
    published: tuple[Published, ...] = ()
    licence: str | None = None
    generator: Literal["diffusers", "idle"] = "diffusers"
    """The generator that runs it; ``idle`` makes no picture and is for benches and fault tests."""
    world: Literal["shapes"] | None = None
    """The closed world of a model that knows no other: measurements ask for what is in it, and count what is shown."""
    hidden: bool = False
    """True for presets that lists leave out unless asked."""
    takes_prompt: bool = True
    """False for a model without a text input: its jobs' prompts are recorded and have no effect."""
    argument_names: dict[str, str] = Field(default_factory=dict)
    """The argument of each job's field that the pipeline's call names otherwise."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the pipeline's call, the same for every job."""
    unused_weights: tuple[str, ...] = ()
    """Patterns (``*`` and ``?``) of tensors in the model's files that its classes have no place for; any other such
    tensor fails the load."""
    acceleration: Acceleration = PLAIN
    """The acceleration of its jobs unless they say otherwise."""
    resumable: bool = True
    """False for a pipeline that checkpoints within a clip do not hold for: its jobs restart from their seeds."""
    continuation: Continuation | None = None
    """None: the model cannot continue from given frames, so its clips have one segment."""
    frames: FrameRule
    size: SizeRule
    defaults: Defaults

    @property
    def digest(self) -> str:
        """sha256 (hex) of what decides a job's frames: two presets of one name are the same where this agrees."""
        # Without defaults, so that a field that a later version adds does not make another preset of this one.
        values = self.model_dump(mode="json", exclude=set(_NO_MATTER), exclude_defaults=True)
        return sha256_hex(json.dumps(values, sort_keys=True))

    def contradictions(self) -> list[tuple[str, str]]:
        """Return where the preset's own rules and defaults disagree, as field and sentence."""
        problems = []
        if missing := [name for name in self.required_inputs if name not in self.inputs]:
            problems.append(("required_inputs", f"{missing[0]!r} is not in inputs"))
        for field, rule in (("frames", self.frames), ("size", self.size)):
            if rule.minimum > rule.maximum:
                problems.append((f"{field}.minimum", f"{rule.minimum} is more than the maximum, {rule.maximum}"))
        if problems:
            return problems
        if self.continuation is not None and self.continuation.takes == "image" and self.continuation.frames != 1:
            problems.append(("continuation.frames", f"{self.continuation.frames}, but one image is taken"))
        try:
            check_rate(self.defaults.fps)
        except ValueError as error:
            problems.append(("defaults.fps", str(error)))
        if not self.frames.allows(self.defaults.num_frames):
            rule_text = (
                f"{self.frames.multiple}k + {self.frames.offset}, {self.frames.minimum} to {self.frames.maximum}"
            )
            problems.append(("defaults.num_frames", f"{self.defaults.num_frames} breaks the frame rule ({rule_text})"))
        for side in ("width", "height"):
            pixels = getattr(self.defaults, side)
            if not self.size.allows(pixels):
                rule_text = f"multiples of {self.size.multiple}, {self.size.minimum} to {self.size.maximum}"
                problems.append((f"defaults.{side}", f"{pixels} breaks the size rule ({rule_text})"))
        return problems


@lru_cache(maxsize=1)
def all_presets() -> dict[str, Preset]:
    """Every preset of the catalogue, by name; ``load_library`` adds the user's own."""
    presets = [Preset.model_validate(tomllib.loads(p.read_text("utf-8"))) for p in sorted(CATALOGUE.glob("*.toml"))]
    return {preset.name: preset for preset in presets}


def get_preset(name: str) -> Preset:
    """The catalogue's preset of that name.

    Raises:
        NotFoundError: there is none; the message lists those there are.
    """
    try:
        return all_presets()[name]
    except KeyError:
        raise NotFoundError(f"preset {name!r} is unknown; known: {', '.join(all_presets())}") from None
