"""From what a pipeline gives to bytes: pixels become uint8 where they are, and leave the GPU through pinned memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from pipeline.errors import FatalError
from pipeline.spec import JobSpec


def to_uint8(video: Any, spec: JobSpec) -> Any:
    """F × 3 × H × W floats in [0, 1] to F × H × W × 3 uint8, a frame at a time to keep the extra memory small.

    Raises:
        FatalError: codes ``frames_mismatch`` and ``nan_frames``.
    """
    expected = (spec.num_frames, 3, spec.height, spec.width)
    if tuple(video.shape) != expected:
        raise FatalError(f"frames are {tuple(video.shape)}, expected {expected}", code="frames_mismatch")
    frames = torch.empty((spec.num_frames, spec.height, spec.width, 3), dtype=torch.uint8, device=video.device)
    for index, frame in enumerate(video):
        values = frame.float()
        if not bool(torch.isfinite(values).all()):
            raise FatalError(f"frame {index} has values that are not finite", code="nan_frames")
        frames[index] = (values * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
    return frames


def as_bytes(frames: Any) -> Iterator[memoryview]:
    for frame in frames.cpu():
        yield memoryview(frame.numpy()).cast("B")
