"""Runs a real model on this machine's GPU: vgen beside a hand-written loop, frame transfer, accelerations.

    python -m bench.gpu [--size full] [--steps 4 50] [--clips 8] [--model FOLDER] [--only frames line loop thread ways]

Wan 2.1 1.3B at 832×480, 81 frames, with random weights of full size; ``--size tiny`` tries the bench itself, on a CPU
too. ``--model`` keeps the 15 GB of weights for the next time.

frames  the decoder's output to uint8 in the host's memory: as the line does it, and by diffusers' own post-processing
bare    the pipeline alone, warm, from prompt to pictures on the GPU: the median of three
line    one GPU worker over PostgreSQL, Redis and an S3 server, from the first claim of a generate step to the last
        publish; idle is what its timeline (`vgen report`) shows beside its work
loop    a warm pipeline of diffusers, ``export_to_video``, upload, in turn
thread  the same, with encoding and upload in a thread
ways    ``vgen bench preset``: step caches, compilation, attention backends

Line efficiency is clips × bare time over wall time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.line_efficiency import CALM, spec_of, submit_and_wait
from bench.parts.loops import SAME_QUALITY, Loop, run_loops
from bench.parts.made_weights import make_model, write_preset
from pipeline.models.gpus import find_gpus
from tests.cluster import REPOSITORY, running_cluster

NAME = "random-wan"
PROMPT = "A red fox runs through fresh snow at dawn, number"
FPS = 16
WAYS = "first_block-0.05,first_block-0.1,taylorseer,taylorseer-lite,pyramid_attention,compile,compile+first_block-0.05"
KINDS = ("frames", "line", "loop", "thread", "ways")
_SIZES = {"full": (81, 480, 832), "tiny": (9, 128, 160)}
"""Frames, height, width."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(_SIZES), default="full")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 50])
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--model", type=Path, help="folder of the weights; made when it has none")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    arguments = parser.parse_args()
    if len(gpus := find_gpus()) > 1:
        parser.error(f"one GPU is measured, and {len(gpus)} are here: use a container that sees one")
    with tempfile.TemporaryDirectory(prefix="vgen-bench-") as name:
        folder = Path(name)
        model = arguments.model or folder / "model"
        print(f"machine: {_device_name()}, {os.cpu_count()} CPU cores")
        make_model(arguments.size, model)
        if "frames" in arguments.only:
            _tell_frames(*_SIZES[arguments.size])
        for steps in arguments.steps:
            clip = _Clip(str(model), steps, *_SIZES[arguments.size])
            if set(arguments.only) & {"line", "loop", "thread"}:
                _tell_line(clip, arguments, folder)
            if "ways" in arguments.only:
                _tell_ways(clip, folder)


@dataclass(frozen=True, slots=True)
class _Clip:
    """A clip of a hand-written loop: a pipeline of diffusers as its documentation loads it."""

    model: str
    steps: int
    frames: int
    height: int
    width: int

    def warm(self) -> None:
        import torch  # noqa: PLC0415
        from diffusers import AutoencoderKLWan, WanPipeline  # noqa: PLC0415

        vae = AutoencoderKLWan.from_pretrained(self.model, subfolder="vae", dtype=torch.float32)
        pipe = WanPipeline.from_pretrained(self.model, vae=vae, dtype=torch.bfloat16)
        pipe.set_progress_bar_config(disable=True)
        _warm[self.model] = pipe.to("cuda" if torch.cuda.is_available() else "cpu")

    def __call__(self, clip: int, output_type: str = "np") -> Any:
        import torch  # noqa: PLC0415

        return _warm[self.model](
            f"{PROMPT} {clip}",
            num_inference_steps=self.steps,
            num_frames=self.frames,
            height=self.height,
            width=self.width,
            generator=torch.Generator("cpu").manual_seed(clip & 0xFFFF),
            output_type=output_type,
        ).frames[0]


_warm: dict[str, Any] = {}
"""Pipelines of this process by their folder: a clip is pickled, its pipeline is not."""


def _tell_line(clip: _Clip, arguments: argparse.Namespace, folder: Path) -> None:
    bare = _bare_s(clip)
    print(f"{clip.steps} steps: bare {bare:.2f} s a clip", flush=True)
    for kind in arguments.only:
        more = ""
        if kind == "line":
            wall, idle = _line(clip, arguments.clips, folder)
            more = f", GPU idle {idle:.1%} of the timeline"
        elif kind in ("loop", "thread"):
            loop = Loop(clip, arguments.clips, FPS, SAME_QUALITY, threaded=kind == "thread")
            wall = run_loops(loop, 1)
        else:
            continue
        print(
            f"  {kind:7} {arguments.clips} clips in {wall:.1f} s: {arguments.clips * bare / wall:.3f}{more}", flush=True
        )


def _bare_s(clip: _Clip) -> float:
    """Seconds of the pipeline alone, without taking pictures off the GPU."""
    clip.warm()
    clip(-1, "pt")
    took = statistics.median(_timed(lambda: clip(0, "pt")) for _ in range(3))
    _warm.clear()  # its memory is needed by who is measured next
    _synchronise(empty=True)
    return took


def _line(clip: _Clip, clips: int, folder: Path) -> tuple[float, float]:
    """Wall seconds of one batch with a warm worker, and the share of them that its GPU had nothing to do."""
    presets = folder / "presets"
    write_preset(presets, NAME, Path(clip.model))
    env = {**CALM, "VGEN_PRESETS_DIR": str(presets), "VGEN_GPU_TYPE": "bench"}
    with tempfile.TemporaryDirectory(dir=folder) as name, running_cluster(Path(name), **env) as cluster:
        cluster.start_worker(workers=3)
        fields = {"preset": NAME, "num-inference-steps": clip.steps, "num-frames": clip.frames}
        fields |= {"width": clip.width, "height": clip.height, "fps": FPS}
        submit_and_wait(cluster, 2, "warm-up", fields)
        batch_id = submit_and_wait(cluster, clips, "measured", fields)
        runs = f"stage_runs WHERE job_id LIKE '{batch_id}-%'"
        first = cluster.one(f"SELECT min(started_at) FROM {runs} AND stage = 'generate'")
        last = cluster.one(f"SELECT max(ended_at) FROM {runs}")
        report = cluster.json("report", batch_id)
    return (last - first) / 1000, 1 - report["gpu_busy_share"]


def _tell_frames(frames: int, height: int, width: int) -> None:
    """Medians of five, after one that is not counted: what a decoder gave, to bytes in the host's memory."""
    import torch  # noqa: PLC0415
    from diffusers.video_processor import VideoProcessor  # noqa: PLC0415

    from pipeline.generators.frames_out import as_bytes, to_uint8  # noqa: PLC0415

    spec = spec_of("tiny-wan", num_frames=frames, height=height, width=width)
    decoded = torch.rand((1, 3, frames, height, width), device="cuda" if torch.cuda.is_available() else "cpu") * 2 - 1
    processor = VideoProcessor(vae_scale_factor=8)
    room = np.empty(frames * height * width * 3, np.uint8)

    def ours() -> None:
        written = 0
        for frame in as_bytes(to_uint8(processor.postprocess_video(decoded, output_type="pt")[0], spec)):
            room[written : written + len(frame)] = np.frombuffer(frame, np.uint8)
            written += len(frame)

    def theirs() -> None:
        floats = processor.postprocess_video(decoded, output_type="np")[0]
        for number, frame in enumerate(floats):  # as export_to_video does
            room.reshape(frames, height, width, 3)[number] = (frame * 255).astype(np.uint8)

    times = [statistics.median([_timed(way) for _ in range(6)][1:]) for way in (ours, theirs)]
    print(f"frames: the line {times[0] * 1000:.1f} ms, diffusers' own {times[1] * 1000:.1f} ms", flush=True)


def _tell_ways(clip: _Clip, folder: Path) -> None:
    presets = folder / "presets"
    write_preset(presets, NAME, Path(clip.model))
    env = {"VGEN_PRESETS_DIR": str(presets), "VGEN_HOME": str(folder / "home"), "PYTHONPATH": str(REPOSITORY)}
    size = [f"--{name}={value}" for name, value in (("width", clip.width), ("height", clip.height))]
    command = [
        sys.executable,
        "-P",
        "-m",
        "cli.main",
        "bench",
        "preset",
        NAME,
        f"--only={WAYS}",
        f"--steps={clip.steps}",
    ]
    subprocess.run([*command, *size, f"--num-frames={clip.frames}"], check=True, env={**os.environ, **env})


def _timed(work: Callable[[], object]) -> float:
    _synchronise()
    start = time.perf_counter()
    work()
    _synchronise()
    return time.perf_counter() - start


def _synchronise(*, empty: bool = False) -> None:
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        torch.cuda.synchronize()
        if empty:
            torch.cuda.empty_cache()


def _device_name() -> str:
    import torch  # noqa: PLC0415

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


if __name__ == "__main__":
    main()
