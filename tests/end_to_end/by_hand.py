"""What a clip must be, found without any code of ours: its pipeline called by hand, its video decoded."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import numpy as np

_PIPELINE = """
import hashlib, json, sys
import numpy, torch
from diffusers import WanPipeline

folder, wanted = sys.argv[1], json.loads(sys.argv[2])
pipe = WanPipeline.from_pretrained(folder, local_files_only=True)
pipe.set_progress_bar_config(disable=True)
for call in wanted:
    seed = call.pop("seed")
    made = pipe(**call, generator=torch.Generator("cpu").manual_seed(seed), output_type="np").frames[0]
    frames = (made * 255).round().clip(0, 255).astype(numpy.uint8)
    print(hashlib.sha256(frames.tobytes()).hexdigest())
"""


def frames_by_hand(model: Path, calls: Sequence[Mapping[str, object]]) -> list[str]:
    """sha256 of the frames of each call of the pipeline in ``model``, F × H × W × 3 uint8; a call has its ``seed``."""
    made = subprocess.run(
        [sys.executable, "-c", _PIPELINE, str(model), json.dumps(calls)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return made.stdout.split()


def decoded_sha256(video: Path) -> str:
    """sha256 of the video's frames as raw RGB, F × H × W × 3 uint8."""
    digest = hashlib.sha256()
    with av.open(video) as container:
        for frame in container.decode(video=0):
            digest.update(np.ascontiguousarray(frame.to_ndarray(format="rgb24")).tobytes())
    return digest.hexdigest()
