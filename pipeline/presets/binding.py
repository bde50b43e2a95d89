"""Bind a job's values to the arguments of a pipeline's call; submission and worker use the same code."""

import math
from collections.abc import Mapping
from typing import Any

from pipeline.presets.preset import Preset
from pipeline.presets.signatures import CallSignature

Mistake = tuple[str, str]
"""A field's name and the sentence on it."""
VALUES = (
    *("width", "height", "num_frames", "num_inference_steps", "guidance_scale", "guidance_scale_2"),
    *("negative_prompt", "fps"),
)
"""The fields that are arguments, besides prompt and inputs."""
_RATES = ("fps", "frame_rate")
"""SVD is conditioned on ``fps``, LTX on ``frame_rate``; other families have neither and are made at one rate."""
_IMPLIED = {"video": ("num_frames",), "image": ("width", "height")}
"""Fields that are the input's where the call has no argument for them."""


def bind(
    signature: CallSignature,
    preset: Preset,
    values: Mapping[str, Any],
    inputs: Mapping[str, Any],
    *,
    has_two_denoisers: bool | None,
) -> tuple[dict[str, Any], list[Mistake]]:
    """The arguments, without generator and output type, and all that the call takes none of.

    ``values`` are those of ``VALUES`` and ``prompt``, ``inputs`` the pictures by field. ``has_two_denoisers`` is None
    where that is not known.
    """
    arguments: dict[str, Any] = dict(preset.arguments)
    mistakes: list[Mistake] = []
    for field, value in _wanted(signature, preset, values, inputs).items():
        if value is None:
            continue
        name = preset.argument_names.get(field, field)
        if name not in signature.parameters:
            mistakes.append((field, f"{_shown(value)} is given, but {preset.pipeline_class} takes none"))
        elif field == "guidance_scale_2" and signature.has_boundary and has_two_denoisers is False:
            mistakes.append((field, f"{value:g} is given, but the model of preset {preset.name!r} has one denoiser"))
        else:
            arguments[name] = value
    for name in _RATES:
        if name in signature.parameters and name not in arguments:
            rate = values["fps"]
            if name == "fps" and rate != int(rate):
                near = f"{math.floor(rate)} or {math.ceil(rate)}" if rate >= 1 else "1"
                mistakes.append(
                    ("fps", f"{rate:g} is not a whole number, and this model needs a whole frame rate: use {near}")
                )
            arguments[name] = int(rate) if name == "fps" else rate
    return arguments, mistakes


def negative_prompt_acts(signature: CallSignature, preset: Preset, guidance_scale: float) -> bool:
    """Return whether a negative prompt changes the clip: only guidance away from it reads it at all."""
    if signature.has_guider:
        return guidance_scale != 1
    scales = [guidance_scale]
    for name in ("true_cfg_scale", "audio_guidance_scale"):
        if name in signature.parameters:
            value = preset.arguments.get(name, signature.defaults.get(name))
            if name == "true_cfg_scale":
                scales = []  # what guidance_scale says is part of such a model's input
            scales += [value] if isinstance(value, int | float) else []
    return any(scale > 1 for scale in scales)


def token_limit(signature: CallSignature, preset: Preset) -> int | None:
    """Return how many tokens of a prompt the text encoder reads; None where the call does not say it."""
    name = "max_sequence_length"
    limit = preset.arguments.get(name, signature.defaults.get(name))
    return limit if type(limit) is int else None


def _wanted(
    signature: CallSignature, preset: Preset, values: Mapping[str, Any], inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the job gives, by field; None for what it does not."""
    arguments = {field: values.get(field) for field in VALUES if field != "fps"}
    arguments["prompt"] = values.get("prompt") if preset.takes_prompt else None
    arguments |= inputs
    if signature.has_guider:
        arguments["guidance_scale"] = None
    for field, follow in _IMPLIED.items():
        if inputs.get(field) is not None:
            arguments |= {name: None for name in follow if name not in signature.parameters}
    return arguments


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float) else "a value"
    return text if len(text) <= 60 else text[:57] + "..."
