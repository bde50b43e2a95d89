"""Compares x264's speed presets at vgen's quality: core-seconds, bytes, PSNR against the raw frames.

    python -m bench.speed_presets [--presets medium faster veryfast superfast]

Three clips of 81 frames, 832×480: soft shapes with grain (that of the line's bench), FFmpeg's sources ``mandelbrot``
(detail that moves) and ``gradients`` with noise.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import tempfile
from pathlib import Path

from imageio_ffmpeg import get_ffmpeg_exe

from bench.encode import write_clip
from bench.line_efficiency import FPS, FRAMES, HEIGHT, WIDTH, encode_core_seconds
from pipeline.encoding import ffmpeg
from pipeline.spec import EncodeOptions

SOURCES = {
    "mandelbrot": f"mandelbrot=size={WIDTH}x{HEIGHT}:rate={FPS:g}",
    "gradients": f"gradients=size={WIDTH}x{HEIGHT}:rate={FPS:g}:speed=0.05:seed=3,noise=alls=3:allf=t",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["medium", "faster", "veryfast", "superfast"])
    arguments = parser.parse_args()
    print(f"machine: {os.cpu_count()} CPU cores, {platform.machine()}; {ffmpeg.ffmpeg_version()}")
    print("clip        preset      core-s      bytes  PSNR dB")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for clip in ("shapes", *SOURCES):
            raw = folder / f"{clip}.rgb"
            if clip in SOURCES:
                source = ["-f", "lavfi", "-i", SOURCES[clip], "-frames:v", str(FRAMES)]
                _ffmpeg(*source, "-f", "rawvideo", "-pix_fmt", "rgb24", str(raw))
            else:
                write_clip(raw, FRAMES, HEIGHT, WIDTH)
            for preset in arguments.presets:
                options = EncodeOptions(preset=preset)
                core_s = encode_core_seconds(raw, folder, options)
                size = (folder / "one.mp4").stat().st_size
                quality = _psnr(raw, folder / "one.mp4", options)
                print(f"{clip:10}  {preset:10}  {core_s:6.2f}  {size:9,}  {quality:7.2f}", flush=True)


def _psnr(raw: Path, video: Path, options: EncodeOptions) -> float:
    """Over all planes, in the colours that were encoded."""
    command = ffmpeg.command_line(Path("-"), width=WIDTH, height=HEIGHT, fps=FPS, options=options, metadata={})
    filters = str(command[command.index("-vf") + 1])
    reading = ["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{WIDTH}x{HEIGHT}", "-framerate", f"{FPS:g}"]
    graph = f"[0:v]{filters}[raw];[1:v][raw]psnr"
    log = _ffmpeg(*reading, "-i", str(raw), "-i", str(video), "-lavfi", graph, "-f", "null", "-")
    match = re.search(r"PSNR .*average:([0-9.]+)", log)
    if match is None:
        raise SystemExit(f"FFmpeg told no PSNR: {log[-500:]}")
    return float(match[1])


def _ffmpeg(*arguments: str) -> str:
    command = [get_ffmpeg_exe(), "-hide_banner", "-nostats", "-y", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stderr


if __name__ == "__main__":
    main()
