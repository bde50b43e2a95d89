"""Measures MagCache's ratios for a model: how much each step's residual changes, over one plain clip."""

from dataclasses import replace
from typing import Any

from diffusers.hooks import MagCacheConfig

from pipeline.acceleration import PLAIN
from pipeline.errors import FatalError
from pipeline.generators.accelerations.refusals import denoisers, unsupported
from pipeline.generators.accelerations.step_caches import state_managers, take_off
from pipeline.generators.base import GenerationRequest, OnProgress, Progress


def ratios(generator: Any, request: GenerationRequest, on_progress: OnProgress) -> list[float]:
    """One ratio a step, the mean of the kinds of call (with and without the prompt).

    ``generator`` is a loaded ``DiffusersVideoGenerator``; the clip of the request is made plainly.

    Raises:
        RefusedError: code ``acceleration_unsupported``; the model has no step cache, or two denoisers.
        StageError: what generating raises.
    """
    pipe, steps = generator._pipe, request.spec.num_inference_steps
    models = list(denoisers(pipe).values())
    if len(models) != 1 or not hasattr(models[0], "enable_cache"):
        raise unsupported("step_cache", models[0], "mag_cache needs one denoiser made of blocks; use first_block")
    # One step more than there are: at its last one the hook prints what it measured, and forgets it.
    config = MagCacheConfig(num_inference_steps=steps + 1, calibrate=True)
    measured: list[list[float]] = []

    def note(progress: Progress) -> None:
        if progress.phase == "denoise" and progress.step == progress.total:
            # After the clip the pipeline has the hooks forget.
            for _, manager in state_managers(models[0]):
                measured.extend(list(state.calibration_ratios) for state in manager._state_cache.values())
        on_progress(progress)

    try:
        models[0].enable_cache(config)
        generator.make(replace(request, acceleration=PLAIN, resume_from=None, checkpoint_s=None), note)
    except (ValueError, IndexError) as error:
        models[0]._cache_config = config
        raise unsupported("step_cache", models[0], f"mag_cache: {error}; use taylorseer") from error
    finally:
        take_off(pipe)
    if not measured or any(len(clip) != len(measured[0]) for clip in measured):
        raise FatalError(f"calibration measured {[len(clip) for clip in measured]} steps of {steps}")
    return [sum(step) / len(measured) for step in zip(*measured, strict=True)]
