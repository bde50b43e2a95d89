"""Compares vgen's encoding, which is watched and verified, with plain FFmpeg on the same raw frames.

    python bench/encode.py [--frames 81] [--width 832] [--height 480] [--runs 5]

Both run FFmpeg with the same codec options and filters; "plain" is a subprocess with ``-i FILE``. Runs alternate, and
medians are compared. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.encoding import ffmpeg
from pipeline.spec import EncodeOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("frames", 81), ("width", 832), ("height", 480), ("runs", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    print(f"{platform.processor() or _processor()}, {os.cpu_count()} CPUs; {ffmpeg.ffmpeg_version()}")
    print(f"{arguments.frames} frames of {arguments.width}x{arguments.height}, {arguments.runs} runs, median seconds")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "clip.rgb"
        write_clip(raw, arguments.frames, arguments.height, arguments.width)
        for options in (
            EncodeOptions(),
            EncodeOptions(preset="ultrafast"),
            EncodeOptions(codec="libx264rgb", quality=0, preset="ultrafast"),
        ):
            _compare(raw, Path(folder), arguments, options)


def _compare(raw: Path, folder: Path, arguments: argparse.Namespace, options: EncodeOptions) -> None:
    size = {"width": arguments.width, "height": arguments.height}
    plain = ffmpeg.command_line(folder / "plain.mp4", **size, fps=24.0, options=options, metadata={})
    plain[plain.index("pipe:0")] = str(raw)

    def ours() -> None:
        ffmpeg.encode(
            raw,
            folder / "ours.mp4",
            **size,
            num_frames=arguments.frames,
            fps=24.0,
            options=options,
            metadata={},
            check=lambda: None,
            timeout_s=600.0,
        )

    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(arguments.runs):
        times["ours"].append(_time(ours))
        times["plain"].append(_time(lambda: subprocess.run(plain, check=True, stdin=subprocess.DEVNULL)))
    median = {name: statistics.median(values) for name, values in times.items()}
    same = (folder / "ours.mp4").read_bytes() == (folder / "plain.mp4").read_bytes()
    print(
        f"{options.codec} {options.preset} q{options.quality}: ours {median['ours']:.3f}, plain {median['plain']:.3f},"
        f" ratio {median['ours'] / median['plain']:.3f}; files equal: {same}"
    )


def _time(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def write_clip(path: Path, frames: int, height: int, width: int) -> None:
    """Soft shapes that drift, with grain, frame by frame: memory stays small."""
    grain = np.random.default_rng(7).integers(-6, 7, (height, width, 1))
    y, x = np.mgrid[0:height, 0:width].astype(float)
    with path.open("wb") as file:
        for t in range(frames):
            planes = [127 + 110 * np.sin(x / (40 + c) + y / (50 - c) + t / 6 + c) for c in range(3)]
            file.write(np.clip(np.stack(planes, axis=-1) + grain, 0, 255).astype(np.uint8).tobytes())


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
