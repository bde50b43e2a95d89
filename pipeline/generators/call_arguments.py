"""From a job to the keyword arguments of a pipeline's call: what it takes is passed, what it cannot take is refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.errors import RefusedError
from pipeline.presets import Preset
from pipeline.spec import JobSpec

_OTHER_NAMES = {"fps": ("fps", "frame_rate")}
"""SVD is conditioned on ``fps``, LTX on ``frame_rate``; other families have neither and are made at one rate."""


def call_arguments(
    call: Callable[..., Any],
    preset: Preset,
    spec: JobSpec,
    prompt: str,
    inputs: Mapping[str, Any],
    *,
    has_guider: bool = False,
) -> dict[str, Any]:
    """The arguments that ``call`` accepts, without generator and output type.

    ``inputs`` are the input pictures by field. Where the call has no argument for sizes or a count of frames, it takes
    them from the image or the video, which are at the clip's. ``has_guider`` is true where guidance belongs to a
    component of the pipeline and not to its call.

    Raises:
        RefusedError: code ``field_unsupported``; the job asks for something that the pipeline has no argument for.
    """
    accepted = set(inspect.signature(call).parameters)
    arguments: dict[str, Any] = dict(preset.arguments)
    wanted = {
        "width": spec.width,
        "height": spec.height,
        "num_frames": spec.num_frames,
        "num_inference_steps": spec.num_inference_steps,
        "guidance_scale": None if has_guider else spec.guidance_scale,
        "guidance_scale_2": spec.guidance_scale_2,
        "prompt": prompt if preset.takes_prompt else None,
        "negative_prompt": spec.negative_prompt,
        **inputs,
    }
    implied = {"video": ("num_frames",), "image": ("width", "height")}
    for field, follow in implied.items():
        if inputs.get(field) is not None:
            wanted |= {name: None for name in follow if name not in accepted}
    for field, value in wanted.items():
        name = preset.argument_names.get(field, field)
        if value is None:
            continue
        if name not in accepted:
            raise RefusedError(
                f"{field}: {_shown(value)} is given, but {preset.pipeline_class} takes none", code="field_unsupported"
            )
        arguments[name] = value
    for field, names in _OTHER_NAMES.items():
        for name in names:
            if name in accepted and name not in arguments:
                arguments[name] = _whole(getattr(spec, field)) if name == "fps" else getattr(spec, field)
    if "image" in accepted and _required(call, "image") and inputs.get("image") is None:
        raise RefusedError(f"image: none is given, and {preset.pipeline_class} needs one", code="image_missing")
    return arguments


def _required(call: Callable[..., Any], name: str) -> bool:
    return inspect.signature(call).parameters[name].default is inspect.Parameter.empty


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, int, float)) else "a value"
    return text if len(text) <= 60 else text[:57] + "..."


def _whole(rate: float) -> int:
    """SVD embeds its rate as a whole number.

    Raises:
        RefusedError: code ``field_unsupported``; the rate is not whole.
    """
    if rate != int(rate):
        raise RefusedError(f"fps: {rate} is not whole, and this model needs a whole rate", code="field_unsupported")
    return int(rate)
