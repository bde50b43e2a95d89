"""What a clip must be, found without any code of ours: its pipeline called by hand, its video decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np


def frames_by_hand(model: Path, calls: Sequence[Mapping[str, Any]]) -> list[str]:
    """sha256 of the frames of each call of the Wan pipeline in ``model``, F × H × W × 3 uint8; a call has its seed."""
    import torch  # noqa: PLC0415  # seconds, for a module that every run collects
    from diffusers import WanPipeline  # noqa: PLC0415

    pipe = WanPipeline.from_pretrained(model, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    made = []
    for call in calls:
        asked = {name: value for name, value in call.items() if name != "seed"}
        generator = torch.Generator("cpu").manual_seed(call["seed"])
        frames = pipe(**asked, generator=generator, output_type="np").frames[0]
        made.append(hashlib.sha256((frames * 255).round().clip(0, 255).astype(np.uint8).tobytes()).hexdigest())
    return made


def decoded_sha256(video: Path) -> str:
    """sha256 of the video's frames as raw RGB, F × H × W × 3 uint8."""
    digest = hashlib.sha256()
    with av.open(video) as container:
        for frame in container.decode(video=0):
            digest.update(np.ascontiguousarray(frame.to_ndarray(format="rgb24")).tobytes())
    return digest.hexdigest()
