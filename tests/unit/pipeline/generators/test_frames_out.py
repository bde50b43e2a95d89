"""Pixels to bytes: what diffusers' own conversion gives, in chunks of any size."""

from __future__ import annotations

import pytest
import torch
from diffusers.video_processor import VideoProcessor

from pipeline.errors import FatalError
from pipeline.generators.frames_out import as_bytes, to_uint8
from pipeline.spec import JobSpec

SPEC = JobSpec(
    prompt="",
    seed=0,
    preset="tiny-wan",
    width=8,
    height=4,
    num_frames=7,
    fps=8,
    num_inference_steps=1,
    guidance_scale=1.0,
)
FRAME_BYTES = 8 * 4 * 3
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def decoded() -> torch.Tensor:
    """What a VAE gives: 1 × 3 × F × H × W around [-1, 1]; some lie between two bytes, some beyond the ends."""
    values = torch.rand((1, 3, 7, 4, 8), generator=torch.Generator().manual_seed(0)) * 2.2 - 1.1
    values[0, :, 0] = ((torch.arange(96) + 0.5) / 255 * 2 - 1).reshape(3, 4, 8)
    return values


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("chunk_frames", [0, 1, 3, 7, 100])
def test_bytes_are_those_of_diffusers_pictures(device: str, chunk_frames: int) -> None:
    processor = VideoProcessor(vae_scale_factor=8)
    pictures = processor.postprocess_video(decoded(), output_type="pil")[0]
    video = processor.postprocess_video(decoded().to(device), output_type="pt")[0]

    frames = [bytes(frame) for frame in as_bytes(to_uint8(video, SPEC), chunk_frames * FRAME_BYTES + 1)]

    assert frames == [picture.tobytes() for picture in pictures]
    assert len(set(frames)) == 7


def test_the_first_frame_that_is_not_finite_is_named() -> None:
    video = torch.rand((7, 3, 4, 8))
    video[3, 1, 2, 2] = float("inf")
    video[5] = float("nan")
    with pytest.raises(FatalError, match="frame 3 has values that are not finite") as caught:
        to_uint8(video, SPEC)
    assert caught.value.code == "nan_frames"
