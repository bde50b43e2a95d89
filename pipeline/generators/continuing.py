"""Continues a clip from the segment before: the pipeline, and the form in which it takes the last frames.

The class that takes frames is made of the components that are in memory already: no weight is loaded twice.
"""

import inspect
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.errors import FatalError, RefusedError
from pipeline.models.pipeline_class import pipeline_class
from pipeline.presets import Continuation, Preset


def continuing_pipeline(preset: Preset, pipe: Any) -> Any:
    """Return the pipeline that makes the segments after the first: ``pipe`` itself, if its class takes frames, else an
    instance of the preset's continuation class that shares the components of ``pipe``, its scheduler among them.

    Raises:
        RefusedError: code ``pipeline_unknown``; the installed diffusers does not have the continuation class.
    """
    continuation = preset.continuation
    if continuation is None or continuation.pipeline_class is None:
        return pipe
    cls = pipeline_class(continuation.pipeline_class)
    parameters = inspect.signature(cls.__init__).parameters
    components = {name: part for name, part in pipe.components.items() if name in parameters}
    settings = {name: pipe.config[name] for name in parameters if name in pipe.config and name not in pipe.components}
    pipeline = cls(**components, **{**settings, **continuation.config})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def read_frames(path: Path, *, width: int, height: int, count: int) -> list[Any]:
    """Raw frames (count × H × W × 3 uint8) as pictures, which pipelines turn into exactly these values again.

    Raises:
        FatalError: code ``frames_mismatch``; the file does not hold so many.
    """
    size = width * height * 3
    data = path.read_bytes()
    if len(data) != size * count:
        raise FatalError(
            f"{path.name} has {len(data)} bytes, {count} frames are {size * count}", code="frames_mismatch"
        )
    return [Image.frombytes("RGB", (width, height), data[start : start + size]) for start in range(0, len(data), size)]


def continuation_of(preset: Preset) -> Continuation:
    """Return how the preset goes on.

    Raises:
        RefusedError: code ``continuation_unsupported``; it cannot.
    """
    if preset.continuation is None:
        raise RefusedError(
            f"segments: preset {preset.name} cannot continue from given frames", code="continuation_unsupported"
        )
    return preset.continuation


def picture_arguments(continuation: Continuation, frames: list[Any]) -> dict[str, Any]:
    """The arguments of the call that say what to go on from."""
    return {**continuation.arguments, continuation.argument: _given(continuation, frames)}


def _given(continuation: Continuation, frames: list[Any]) -> Any:
    if continuation.takes == "image":
        return frames[-1]
    if continuation.takes == "videos":
        return [frames]
    from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition  # noqa: PLC0415 - torch

    return [LTX2VideoCondition(frames=frames, index=0, strength=1.0)]
