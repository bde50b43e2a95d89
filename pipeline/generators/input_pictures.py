"""Reads a request's input files as the pictures that a pipeline takes."""

from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.errors import InputError, RefusedError
from pipeline.files.regular import read_regular_file
from pipeline.generators.base import GenerationRequest
from pipeline.inputs.images import MAX_INPUT_BYTES, fitted, read_image
from pipeline.inputs.videos import read_video
from pipeline.media.opening import UnreadableMediaError
from pipeline.spec import JobSpec

Pictures = dict[str, Any]
"""A picture, or a list of them, by the job's field."""


def read_pictures(request: GenerationRequest) -> Pictures:
    """Return what the request's inputs show: frames at the clip's size, reference images at their own.

    Raises:
        RefusedError: codes ``image_unreadable``, ``video_unreadable`` and ``video_too_short``.
    """
    pictures: Pictures = {}
    for field in ("image", "last_image"):
        path = getattr(request, field)
        if path is not None:
            pictures[field] = fitted(_opened(path, field), (request.spec.width, request.spec.height))
    if request.video is not None:
        pictures["video"] = _read_frames(request.video, request.spec)
    if request.reference_images:
        pictures["reference_images"] = [_opened(path, "reference_images") for path in request.reference_images]
    return pictures


def _opened(path: Path, field: str) -> Image.Image:
    try:
        return read_image(read_regular_file(path, what=field, limit_bytes=MAX_INPUT_BYTES), path.name).image
    except (InputError, ValueError) as error:
        raise RefusedError(f"{field}: cannot be read: {error}", code="image_unreadable") from error


def _read_frames(path: Path, spec: JobSpec) -> list[Image.Image]:
    """The first frames of a video, as many as the clip has, at the clip's size. Their rate is not looked at."""
    frames: list[Image.Image] = []
    try:
        for pixels, aspect in read_video(path):
            frames.append(fitted(Image.fromarray(pixels), (spec.width, spec.height), float(aspect)))
            if len(frames) == spec.num_frames:
                return frames
    except UnreadableMediaError as error:
        raise RefusedError(f"video: cannot be read: {error}", code="video_unreadable") from error
    raise RefusedError(f"video: has {len(frames)} frames, and the clip has {spec.num_frames}", code="video_too_short")
