"""A request's input files as the pictures that a pipeline is called with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from pipeline.errors import RefusedError
from pipeline.generators.base import GenerationRequest
from pipeline.input_videos import DEMUXERS
from pipeline.spec import JobSpec

Pictures = dict[str, Any]
"""By field of the job: a picture, or a list of them."""


def read_pictures(request: GenerationRequest) -> Pictures:
    """What the request's inputs show: frames at the clip's size, reference images at their own.

    Raises:
        RefusedError: codes ``image_unreadable``, ``video_unreadable`` and ``video_too_short``.
    """
    found: Pictures = {}
    for field in ("image", "last_image"):
        path = getattr(request, field)
        if path is not None:
            found[field] = _fitted(_opened(path, field), request.spec)
    if request.video is not None:
        found["video"] = _read_frames(request.video, request.spec)
    if request.reference_images:
        found["reference_images"] = [_opened(path, "reference_images") for path in request.reference_images]
    return found


def _opened(path: Path, field: str) -> Any:
    try:
        with Image.open(path) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise RefusedError(f"{field}: cannot be read: {error}", code="image_unreadable") from error


def _fitted(picture: Any, spec: JobSpec) -> Any:
    """A picture at the clip's size: scaled to cover it, then cut in the middle."""
    return ImageOps.fit(picture, (spec.width, spec.height), Image.Resampling.LANCZOS)


def _read_frames(path: Path, spec: JobSpec) -> list[Any]:
    """The first frames of a video, as many as the clip has, at the clip's size. Their rate is not looked at."""
    import av  # noqa: PLC0415 - few clips have a video
    from av.error import FFmpegError  # noqa: PLC0415

    frames: list[Any] = []
    try:
        with av.open(str(path), options={"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}) as container:
            frame: Any  # PyAV's conversion has no types
            for frame in container.decode(container.streams.video[0]):
                frames.append(_fitted(frame.to_image(), spec))
                if len(frames) == spec.num_frames:
                    return frames
    except (FFmpegError, IndexError, OSError) as error:
        raise RefusedError(f"video: cannot be read: {error}", code="video_unreadable") from error
    raise RefusedError(f"video: has {len(frames)} frames, and the clip has {spec.num_frames}", code="video_too_short")
