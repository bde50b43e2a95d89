"""Loads a preset's pipeline from disk into memory."""

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from pipeline.acceleration import Acceleration
from pipeline.errors import RefusedError
from pipeline.generators.accelerations import at_load
from pipeline.models.model_files import folder_problems, variant_of
from pipeline.models.moving import weight_bytes
from pipeline.models.pipeline_class import pipeline_class
from pipeline.models.strict_loading import refuse_meta, strict_loading
from pipeline.presets import Preset

_SMALL_BYTES = 64 * 1024 * 1024
_THREADS = torch.get_num_threads()
"""As many as torch takes by itself, for models that are not small."""


def read_pipeline(preset: Preset, folder: Path, acceleration: Acceleration) -> tuple[Any, str]:
    """The pipeline in memory, and the device that it computes on.

    Raises:
        RefusedError: codes ``pipeline_unknown``, ``model_damaged`` (files that do not fit their classes),
            ``acceleration_unavailable`` and ``acceleration_unsupported``.
    """
    problems = folder_problems(folder, half=preset.dtype == "float16")
    if problems:
        raise RefusedError(f"the model of preset {preset.name!r}: {'; '.join(problems)}"[:2000], code="model_damaged")
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    # Kernels chosen by a timing contest differ from run to run, and with them the frames.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, dtype_on(preset, device))
    dtypes = {"default": dtype, "vae": getattr(torch, preset.vae_dtype)} if preset.vae_dtype else dtype
    cls = pipeline_class(preset.pipeline_class)
    more = {**variant_of(preset, folder), **at_load.reading_arguments(acceleration, folder, dtype, device)}
    with strict_loading(preset.unused_weights):
        pipe = cls.from_pretrained(folder, dtype=dtypes, local_files_only=True, **more)
    refuse_meta(pipe.components, str(folder))
    pipe.set_progress_bar_config(disable=True)
    torch.set_num_threads(_threads_for(pipe, device))
    return at_load.fit(pipe, acceleration, device=device, dtype=dtype), device


def _threads_for(pipe: Any, device: str) -> int:
    """One for a small model on a CPU: its threads would wait for each other longer than they compute."""
    return 1 if device == "cpu" and weight_bytes(pipe) < _SMALL_BYTES else _THREADS


def dtype_on(preset: Preset, device: str) -> str:
    """CPU kernels for float16 are missing or very slow, so a CPU computes such a model in float32, and says so."""
    return "float32" if device == "cpu" and preset.dtype == "float16" else preset.dtype
