"""Builds the arguments of a pipeline's call from a job; a field without an argument is refused."""

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.errors import RefusedError
from pipeline.presets import Preset
from pipeline.presets.binding import VALUES, bind
from pipeline.presets.signatures import signature_of
from pipeline.spec import JobSpec


def call_arguments(
    call: Callable[..., Any],
    preset: Preset,
    spec: JobSpec,
    prompt: str,
    inputs: Mapping[str, Any],
    *,
    has_guider: bool = False,
    has_two_denoisers: bool | None = None,
) -> dict[str, Any]:
    """The arguments that ``call`` accepts, without generator and output type.

    ``inputs`` are the input pictures by field. Where the call has no argument for sizes or a count of frames, it takes
    them from the image or the video, which are at the clip's. ``has_guider`` is true where guidance belongs to a
    component of the pipeline and not to its call; ``has_two_denoisers`` is None where the class has no say in it.

    Raises:
        RefusedError: code ``field_unsupported``; the job asks for something that the pipeline has no argument for.
            A submission is refused for it by the same code (``pipeline.presets.binding``), where it knows the class.
    """
    signature = signature_of(call, has_guider=has_guider, has_boundary=has_two_denoisers is not None)
    values = {field: getattr(spec, field) for field in VALUES}
    arguments, mistakes = bind(
        signature, preset, {**values, "prompt": prompt}, inputs, has_two_denoisers=has_two_denoisers
    )
    if mistakes:
        field, sentence = mistakes[0]
        raise RefusedError(f"{field}: {sentence}", code="field_unsupported")
    if signature.requires("image") and inputs.get("image") is None:
        raise RefusedError(f"image: is required by {preset.pipeline_class}", code="image_missing")
    return arguments
