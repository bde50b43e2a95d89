"""Raw clips for the tests of encoding: made, not random noise, so that codecs behave as on pictures."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]


def moving_picture(num_frames: int, height: int, width: int) -> Frames:
    """F × H × W × 3 uint8: soft colours that drift, with some grain."""
    grain = np.random.default_rng(7).integers(-6, 7, (height, width, 1))
    y, x, t = np.mgrid[0:height, 0:width, 0:num_frames].astype(float)
    planes = [127 + 110 * np.sin(x / (9 + c) + y / (14 - c) + t / 3 + c) for c in range(3)]
    picture = np.stack(planes, axis=-1).transpose(2, 0, 1, 3)
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


def write_raw(path: Path, frames: Frames) -> Path:
    path.write_bytes(frames.tobytes())
    return path


def decode_rgb(path: Path) -> Frames:
    """Every frame as RGB, converted by the matrix that the file itself is tagged with."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def psnr(a: Frames, b: Frames) -> float:
    """Peak signal-to-noise ratio of two clips, in dB."""
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / error))
