"""The acceleration options of presets and jobs, which save time or memory.

Names and defaults are those of diffusers' own options, where it has them. Which model, GPU and build can do what is
seen when it is applied (``pipeline.generators.accelerations``); what can be known before is checked at submit.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

ATTENTION_BACKENDS = (
    *("native", "flex", "flash", "flash_hub", "flash_varlen", "flash_varlen_hub", "flash_4_hub"),
    *("_flash_3", "_flash_varlen_3", "_flash_3_hub", "_flash_3_varlen_hub", "aiter_fa2_hub"),
    *("_native_cudnn", "_native_efficient", "_native_flash", "_native_math", "_native_npu", "_native_xla"),
    *("sage", "sage_hub", "sage_blackwell_hub", "sage_varlen", "_sage_qk_int8_pv_fp8_cuda"),
    *("_sage_qk_int8_pv_fp8_cuda_sm90", "_sage_qk_int8_pv_fp16_cuda", "_sage_qk_int8_pv_fp16_triton", "xformers"),
)
"""Those of diffusers' dispatcher (``AttentionBackendName``); a test compares."""
QUANTISATIONS = ("torchao-int8", "torchao-int4", "torchao-float8", "bitsandbytes-int8", "bitsandbytes-nf4")
GGUF = "gguf:"
"""The prefix of a quantisation that is a GGUF file's path."""
_AT_LOAD = ("compile", "quantisation", "layerwise_casting", "offload", "text_encoder_offload", "context_parallel")
_SAME_PIXELS = frozenset({"offload", "text_encoder_offload"})


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FirstBlock(_Options):
    """Skip the other blocks of a step while the first block's residual hardly changes."""

    kind: Literal["first_block"]
    threshold: float = Field(0.05, gt=0, le=1)


class TaylorSeer(_Options):
    """Predict what attention gives from its last values, and compute it each ``interval`` steps."""

    kind: Literal["taylorseer"]
    interval: int = Field(5, ge=2, le=50)
    warm_up: int = Field(3, ge=1, le=100)
    order: int = Field(1, ge=0, le=4)
    lite: bool = False
    """Predict only the model's output: less memory, coarser."""


class MagCache(_Options):
    """Skip steps while the residual's magnitude changes in the way that was measured for the model."""

    kind: Literal["mag_cache"]
    threshold: float = Field(0.06, gt=0, le=1)
    max_skip: int = Field(3, ge=1, le=20)
    retention: float = Field(0.2, ge=0, le=1)
    ratios: tuple[Annotated[float, Field(gt=0, le=100)], ...] = Field((), max_length=1000)
    """The ratio of each step; empty: those that ``vgen models calibrate`` keeps for the preset, pinned at submit."""


class PyramidAttention(_Options):
    """Attend in every n-th step only, and use the last result in between, from one timestep down to another."""

    kind: Literal["pyramid_attention"]
    spatial: int | None = Field(2, ge=2, le=50)
    temporal: int | None = Field(None, ge=2, le=50)
    cross: int | None = Field(None, ge=2, le=50)
    timestep_low: int = Field(100, ge=0, le=1000)
    timestep_high: int = Field(800, ge=0, le=1000)

    @model_validator(mode="after")
    def _some(self) -> PyramidAttention:
        if self.spatial is None and self.temporal is None and self.cross is None:
            raise ValueError("give spatial, temporal or cross")
        if self.timestep_low >= self.timestep_high:
            raise ValueError(f"timestep_low {self.timestep_low} is not below timestep_high {self.timestep_high}")
        return self


StepCache = Annotated[FirstBlock | TaylorSeer | MagCache | PyramidAttention, Field(discriminator="kind")]
STEP_CACHES: dict[str, type[_Options]] = {
    "first_block": FirstBlock,
    "taylorseer": TaylorSeer,
    "mag_cache": MagCache,
    "pyramid_attention": PyramidAttention,
}


class Acceleration(_Options):
    """Every option; the defaults are the plain way, and stay what they are: jobs store what differs from them."""

    attention: str | None = None
    compile: bool = False
    """The repeated blocks of the denoiser by torch.compile."""
    step_cache: StepCache | None = None
    vae_tiling: bool = False
    vae_slicing: bool = False
    quantisation: str | None = None
    """The denoiser's weights: one of ``QUANTISATIONS``, or ``gguf:`` and a file's absolute path."""
    layerwise_casting: Literal["float8_e4m3fn", "float8_e5m2"] | None = None
    """The type in which the denoiser's weights are stored between their uses."""
    offload: Literal["model", "group", "group-stream"] | None = None
    """The parts that wait in the host's memory: whole models, or groups of layers, without or with their own stream."""
    text_encoder_offload: bool = False
    context_parallel: int = Field(1, ge=1, le=16)
    """GPUs that share one clip's attention."""

    @model_validator(mode="after")
    def _rules(self) -> Acceleration:
        if self.attention is not None and self.attention not in ATTENTION_BACKENDS:
            backends = ", ".join(ATTENTION_BACKENDS)
            raise ValueError(f"attention: {self.attention!r} is not an attention backend; use one of: {backends}")
        quantisation = self.quantisation
        if quantisation is not None and quantisation not in QUANTISATIONS and not quantisation.startswith(f"{GGUF}/"):
            raise ValueError(
                f"quantisation: {quantisation!r} is not possible; use one of: "
                f"{', '.join(QUANTISATIONS)}, {GGUF}/path/to/file"
            )
        if quantisation is not None and self.layerwise_casting is not None:
            raise ValueError("quantisation and layerwise_casting both set how weights are stored; give only one")
        return self

    @property
    def plain(self) -> bool:
        return self == PLAIN

    @property
    def at_load(self) -> Acceleration:
        """The part that belongs to the loaded model: another one needs another load."""
        return PLAIN.model_copy(update={name: getattr(self, name) for name in _AT_LOAD})

    def given(self) -> dict[str, Any]:
        """JSON of the options that are not the plain way's; of a step cache every value."""
        cache = {} if self.step_cache is None else {"step_cache": self.step_cache.model_dump(mode="json")}
        return {**self.model_dump(mode="json", exclude_defaults=True), **cache}

    def pixels(self) -> dict[str, Any]:
        """``given`` without the options that leave every pixel as it is."""
        return {name: value for name, value in self.given().items() if name not in _SAME_PIXELS}


PLAIN = Acceleration()
