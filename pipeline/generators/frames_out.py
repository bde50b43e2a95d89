"""Converts a pipeline's frames to bytes: uint8 on their device, then copied through pinned memory."""

from collections.abc import Iterator
from typing import Any

import torch

from pipeline.errors import FatalError
from pipeline.spec import JobSpec

CHUNK_BYTES = 16 * 1024 * 1024
"""Copied at once: large enough for the bus's full speed, and two of them are all the pinned memory that it takes."""


def to_uint8(video: Any, spec: JobSpec) -> Any:
    """F × 3 × H × W floats in [0, 1] to F × H × W × 3 uint8, a frame at a time to keep the extra memory small.

    Raises:
        FatalError: codes ``frames_mismatch`` and ``nan_frames``.
    """
    expected = (spec.num_frames, 3, spec.height, spec.width)
    if tuple(video.shape) != expected:
        raise FatalError(f"frames are {tuple(video.shape)}, expected {expected}", code="frames_mismatch")
    frames = torch.empty((spec.num_frames, spec.height, spec.width, 3), dtype=torch.uint8, device=video.device)
    finite = torch.empty(spec.num_frames, dtype=torch.bool, device=video.device)
    for index, frame in enumerate(video):
        values = frame.float()
        finite[index] = torch.isfinite(values).all()
        frames[index] = (values * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
    if not bool(finite.all()):  # looked at once: each look waits for the GPU
        raise FatalError(f"frame {finite.tolist().index(False)} has values that are not finite", code="nan_frames")
    return frames


def as_bytes(frames: Any, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
    """Each frame's bytes, from F × H × W × 3 uint8; a frame's are good until the next one is asked for.

    One chunk is on its way from the GPU while the one before is used, on a stream of its own: the next clip may be
    made meanwhile. The frames must be complete, as those of ``to_uint8`` are.
    """
    count = max(1, chunk_bytes // max(1, frames[0].nbytes)) if len(frames) else 1
    on_gpu = frames.device.type == "cuda"
    buffers = [torch.empty((count, *frames.shape[1:]), dtype=torch.uint8, pin_memory=on_gpu) for _ in range(2)]
    stream = torch.cuda.Stream(frames.device) if on_gpu else None  # type: ignore[no-untyped-call]
    coming: tuple[Any, Any] | None = None
    for number, chunk in enumerate(frames.split(count)):
        buffer = buffers[number % 2][: len(chunk)]
        with torch.cuda.stream(stream):  # nothing changes without one
            buffer.copy_(chunk, non_blocking=on_gpu)
        arrived = None if stream is None else stream.record_event()
        if coming is not None:
            yield from _frames_of(*coming)
        coming = buffer, arrived
    if coming is not None:
        yield from _frames_of(*coming)


def _frames_of(buffer: Any, arrived: Any) -> Iterator[memoryview]:
    if arrived is not None:
        arrived.synchronize()
    for frame in buffer:
        yield memoryview(frame.numpy()).cast("B")
