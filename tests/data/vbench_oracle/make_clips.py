"""Makes the corner-case clips. They are stored, since another x264 would make other bytes: run this only to add one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

Frames = np.ndarray
CLIPS = Path(__file__).parent / "clips"


class Recipe(NamedTuple):
    width: int
    height: int
    frames: int
    content: str
    fps: str = "24"
    pixel_format: str = "yuv420p"


RECIPES = {
    "square": Recipe(96, 96, 8, "drift"),
    "wide": Recipe(228, 128, 7, "drift"),
    "tall": Recipe(128, 228, 7, "drift", "16"),
    "odd_sizes": Recipe(133, 129, 5, "drift", "24", "yuv444p"),
    "odd_tall": Recipe(129, 201, 3, "fast", "8", "yuv444p"),
    "one_frame": Recipe(96, 64, 1, "drift"),
    "two_frames": Recipe(128, 128, 2, "drift", "8"),
    "three_frames": Recipe(128, 128, 3, "fast", "8"),
    "seven_frames": Recipe(136, 128, 7, "drift", "12"),
    "ntsc": Recipe(136, 128, 17, "drift", "30000/1001"),
    "static": Recipe(144, 128, 5, "static"),
    "noise": Recipe(128, 128, 4, "noise", "8"),
    "cut": Recipe(128, 128, 10, "cut", "16"),
    "fast": Recipe(160, 128, 6, "fast", "8"),
    "black": Recipe(128, 128, 4, "black"),
    "large": Recipe(640, 360, 2, "drift"),
}


def picture(recipe: Recipe, t: int, seed: int = 0) -> Frames:
    """Frame ``t`` as uint8 (height, width, 3)."""
    y, x = np.mgrid[0 : recipe.height, 0 : recipe.width].astype(float)
    speed = {"static": 0.0, "fast": 23.0}.get(recipe.content, 1.7)
    if recipe.content == "black":
        return np.zeros((recipe.height, recipe.width, 3), np.uint8)
    if recipe.content == "noise":
        return np.random.RandomState(t).randint(0, 256, (recipe.height, recipe.width, 3)).astype(np.uint8)
    if recipe.content == "cut" and t >= recipe.frames // 2:
        seed = 5
    shift = speed * t
    planes = [
        127 + 80 * np.sin((x + shift) / (7 + 3 * c + seed) + y / (11 - c)) + 40 * np.sin(y / 5 - shift / 9 + seed + c)
        for c in range(3)
    ]
    grain = np.random.RandomState(seed + 1).randint(-12, 13, (recipe.height, recipe.width, 1))
    return np.clip(np.stack(planes, axis=-1) + grain, 0, 255).astype(np.uint8)


def write(name: str, recipe: Recipe) -> None:
    """``clips/NAME.mp4``, H.264."""
    with av.open(str(CLIPS / f"{name}.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(recipe.fps), options={"crf": "32", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = recipe.width, recipe.height, recipe.pixel_format
        for t in range(recipe.frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(recipe, t), "rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    CLIPS.mkdir(exist_ok=True)
    for name, recipe in RECIPES.items():
        write(name, recipe)
