"""Pipelines without size arguments, which make only a few fixed sizes."""

import inspect
from typing import Any

from pipeline.errors import RefusedError
from pipeline.spec import JobSpec


def own_size(pipe: Any, width: int, height: int) -> tuple[int, int]:
    """The size that is made where this one is asked for: a class without arguments for it (HunyuanVideo 1.5 from an
    image) has a few of its own."""
    calculate = getattr(getattr(pipe, "video_processor", None), "calculate_default_height_width", None)
    if calculate is None or "width" in inspect.signature(pipe.__call__).parameters:
        return width, height
    own_height, own_width = calculate(height=height, width=width, target_size=pipe.target_size)
    return own_width, own_height


def check_own_size(pipe: Any, spec: JobSpec) -> None:
    """
    Raises:
        RefusedError: code ``field_unsupported``; the job's size is not made, and the message has the nearest.
    """
    width, height = own_size(pipe, spec.width, spec.height)
    if (width, height) != (spec.width, spec.height):
        raise RefusedError(
            f"size: {spec.width}x{spec.height} cannot be made by {type(pipe).__name__}; nearest: {width}x{height}",
            code="field_unsupported",
        )
