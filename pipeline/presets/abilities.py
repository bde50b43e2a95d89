"""Says which accelerations can never work with a preset's model, before it is loaded.

The tables follow diffusers; a test compares them with its classes.
"""

from collections.abc import Sequence

from pipeline.acceleration import Acceleration, MagCache
from pipeline.presets.preset import Preset
from pipeline.spec import LoraRef

NO_STEP_CACHE = frozenset({"StableVideoDiffusionPipeline"})
"""Pipelines whose denoiser is a UNet without the blocks that step caches hold on to."""
NO_TILING = frozenset({"StableVideoDiffusionPipeline"})
"""Pipelines whose VAE can neither tile nor slice."""
NO_CONTEXT_PARALLEL = frozenset(
    {
        *("CogVideoXImageToVideoPipeline", "CogVideoXPipeline", "HunyuanVideo15ImageToVideoPipeline"),
        *("HunyuanVideo15Pipeline", "MochiPipeline", "StableVideoDiffusionPipeline", "WanVACEPipeline"),
    }
)
"""Pipelines whose denoiser's class has no plan by which ranks could share it."""
NO_LORA = frozenset(
    {
        *("AllegroPipeline", "Cosmos2VideoToWorldPipeline", "CosmosTextToWorldPipeline", "CosmosVideoToWorldPipeline"),
        *("EasyAnimateControlPipeline", "EasyAnimateInpaintPipeline", "EasyAnimatePipeline"),
        *("HunyuanVideo15ImageToVideoPipeline", "HunyuanVideo15Pipeline", "LattePipeline"),
        *("MotifVideoImage2VideoPipeline", "MotifVideoPipeline", "StableVideoDiffusionPipeline"),
    }
)
"""Video pipelines of diffusers that have no loader for LoRAs."""


def missing(preset: Preset, acceleration: Acceleration, gpu: Sequence[str]) -> list[str]:
    """A sentence on each option that cannot work with the preset, or on the GPU types that the job keeps to."""
    reasons = []
    if preset.generator == "idle" and not acceleration.plain:
        return [f"preset {preset.name!r} makes no picture and takes none"]
    if acceleration.step_cache is not None and preset.pipeline_class in NO_STEP_CACHE:
        reasons.append(f"step_cache: {preset.pipeline_class} has none; attention, compile and offload are possible")
    for option in ("vae_tiling", "vae_slicing"):
        if getattr(acceleration, option) and preset.pipeline_class in NO_TILING:
            reasons.append(f"{option}: the VAE of {preset.pipeline_class} has none; offload saves memory too")
    if isinstance(acceleration.step_cache, MagCache) and preset.defaults.guidance_scale_2 is not None:
        reasons.append("step_cache: mag_cache counts one denoiser's steps, and this model has two; use first_block")
    ways = acceleration.context_parallel
    if ways > 1 and preset.pipeline_class in NO_CONTEXT_PARALLEL:
        reasons.append(f"context_parallel: diffusers has no plan for {preset.pipeline_class}; compile helps on one GPU")
    if ways > 1 and (not gpu or not all(kind.endswith(f"x{ways}") for kind in gpu)):
        gpu_names = ", ".join(gpu) or "none"
        reasons.append(
            f"context_parallel: {ways} needs `gpu` types of {ways} devices, such as h200x{ways}; given: {gpu_names}"
        )
    return reasons


def no_loras(preset: Preset, loras: Sequence[LoraRef], acceleration: Acceleration) -> list[str]:
    """A sentence on each reason why the preset cannot take them, made in the way that is wanted."""
    if not loras:
        return []
    if preset.generator == "idle":
        return [f"preset {preset.name!r} makes no picture and takes none"]
    if preset.pipeline_class in NO_LORA:
        return [f"preset {preset.name!r} takes none: diffusers has no LoRA loader for {preset.pipeline_class}"]
    reasons = []
    if acceleration.layerwise_casting is not None:
        # They are cast with the layers around them, and no kernel computes in the type for storage.
        reasons.append("cannot be used with layerwise_casting; quantisation or offload saves memory too")
    if preset.defaults.guidance_scale_2 is None and any(lora.load_into_transformer_2 for lora in loras):
        reasons.append(f"load_into_transformer_2 is given, but the model of preset {preset.name!r} has one denoiser")
    into = [(lora.file.sha256, lora.load_into_transformer_2) for lora in loras]
    reasons += [f"{lora.file.name!r} is listed twice" for k, lora in enumerate(loras) if into[k] in into[:k]]
    return reasons
