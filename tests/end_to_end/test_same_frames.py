"""A clip is what its pipeline makes: the same frames by hand, and a lossless video that holds exactly those."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np

from cli.options import BatchChoices
from tests.line_helpers import (
    artifacts_of,
    assert_published_once,
    home_of,
    job_list,
    settings_for,
    sidecar_of,
    stored_bytes,
    submit,
    work_off,
)

BY_HAND = """
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
CALL = {"num_frames": 9, "width": 64, "height": 48, "num_inference_steps": 3}


def test_the_frames_are_those_of_the_pipeline_by_hand_and_of_the_lossless_video(tmp_path: Path) -> None:
    calls = [
        {"prompt": "a red kite", "seed": 11, "guidance_scale": 5.0, **CALL},
        {"prompt": "naïve 雨 🐈", "seed": 2**31, "guidance_scale": 1.0, "negative_prompt": "blur", **CALL},
    ]
    settings = settings_for(tmp_path)
    with home_of(settings) as database:
        lossless = BatchChoices(codec="libx264rgb", quality=0)
        batch_id = submit(settings, database, [{"preset": "tiny-wan", **call} for call in calls], lossless)
        work_off(settings, database, batch_id)
        assert_published_once(settings, database, batch_id)
        jobs = job_list(database, batch_id)
        recorded = [sidecar_of(settings, database, job.id)["frames"]["sha256"] for job in jobs]
        decoded = [_decoded_sha256(stored_bytes(settings, artifacts_of(database, job.id)["video"])) for job in jobs]

    folder = settings.effective_cache_dir / "models" / "tiny-wan-v1"
    by_hand = subprocess.run(
        [sys.executable, "-c", BY_HAND, str(folder), json.dumps(calls)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert by_hand.returncode == 0, by_hand.stderr
    assert by_hand.stdout.split() == recorded
    assert decoded == recorded
    assert len(set(recorded)) == 2


def _decoded_sha256(video: bytes) -> str:
    """sha256 of the video's frames as raw RGB, F × H × W × 3 uint8."""
    path = Path("decoded.mp4")
    path.write_bytes(video)
    digest = hashlib.sha256()
    with av.open(path) as container:
        for frame in container.decode(video=0):
            digest.update(np.ascontiguousarray(frame.to_ndarray(format="rgb24")).tobytes())
    return digest.hexdigest()
