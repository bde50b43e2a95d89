"""Checks that the preset's pipeline takes a job's fields, with the worker's own code."""

from pathlib import Path
from typing import cast

from pipeline.models.model_files import index_value
from pipeline.presets import Library, Preset
from pipeline.presets.binding import VALUES, Mistake, bind
from pipeline.presets.signatures import call_signature
from pipeline.prompts.layers import Values

_INPUTS = ("image", "last_image", "video", "reference_images")


def call_mistakes(full: Values, preset: Preset, library: Library) -> list[Mistake]:
    """Return what the call of the preset's class takes none of, and for later segments that of the class that goes on.

    A class that the installed diffusers does not have is left to the worker.
    """
    if preset.generator == "idle":
        return []
    values = {field: full.get(field) for field in VALUES} | {"prompt": full.get("prompt") or "x"}
    two = _has_two_denoisers(preset, library)
    mistakes: list[Mistake] = []
    signature = call_signature(preset.pipeline_class)
    if signature is not None:
        inputs = {field: full.get(field) or None for field in _INPUTS}
        mistakes += bind(signature, preset, values, inputs, has_two_denoisers=two)[1]
    later = preset.continuation
    if cast(int, full["segments"]) > 1 and later is not None and later.pipeline_class is not None:
        signature = call_signature(later.pipeline_class)
        if signature is not None:
            later_preset = preset.model_copy(update={"pipeline_class": later.pipeline_class})
            mistakes += bind(signature, later_preset, values, {}, has_two_denoisers=two)[1]
    return list(dict(reversed(mistakes)).items())[::-1]


def _has_two_denoisers(preset: Preset, library: Library) -> bool | None:
    """Return whether ``guidance_scale_2`` acts; None where the model is not on this machine and no source says so."""
    if preset.defaults.guidance_scale_2 is not None:
        return True
    folder = Path(preset.repo)
    if folder.is_absolute():
        boundary = index_value(folder, "boundary_ratio", ...)
        return None if boundary is ... else boundary is not None
    return False if preset.name not in library.files else None
