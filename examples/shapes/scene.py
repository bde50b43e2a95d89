"""One scene of the world: what is in it, drawn at random, and which combinations training never sees."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.scoring.shapes import BACKGROUNDS, COLOURS, MOTIONS, SHAPES

WIDTH, HEIGHT, FRAMES = 128, 64, 17
HELD_OUT_SHARE = 0.15
RADII: Mapping[str, tuple[float, float]] = {"small": (12.0, 13.0), "medium": (14.0, 15.2), "large": (16.4, 17.6)}
"""In pixels; what is medium is called neither small nor large."""
_ASTRAY = (10.0, 3.0)
"""How far from the middle of the picture the middle of a shape's way may lie, in pixels to the side and up or down."""


@dataclass(frozen=True, slots=True)
class Combination:
    """What a prompt can ask for, size aside."""

    colour: str
    shape: str
    background: str
    motion: str

    @property
    def held_out(self) -> bool:
        """Whether training never sees this combination; it depends on the words only."""
        digest = hashlib.sha256(f"{self.colour} {self.shape} {self.background} {self.motion}".encode()).digest()
        return digest[0] < HELD_OUT_SHARE * 256


@dataclass(frozen=True, slots=True)
class Scene:
    """A clip to draw: positions and radii in pixels, from the first frame to the last."""

    what: Combination
    size: str
    start: tuple[float, float]
    end: tuple[float, float]
    radii: tuple[float, float]
    brightness: float
    horizon: float
    wave: tuple[float, float, float]
    """The horizon's line: amplitude in pixels, periods in the picture's width, phase."""


def combinations(*, held_out: bool) -> list[Combination]:
    """All combinations of the world on that side of the split, in a fixed order."""
    every = (Combination(*names) for names in itertools.product(COLOURS, SHAPES, BACKGROUNDS, MOTIONS))
    return [one for one in every if one.held_out == held_out]


def draw_scene(what: Combination, rng: np.random.Generator, *, anywhere: bool = False) -> Scene:
    """A scene of this combination in which the whole shape is in the picture in every frame.

    Its way lies about the middle of the picture, or ``anywhere``: that is for clips whose first frame is given.
    """
    size = ("small", "large", "medium")[rng.choice(3, p=(0.3, 0.4, 0.3))]
    radius = rng.uniform(*RADII[size])
    radii = (radius * rng.uniform(0.5, 0.6), radius * 1.1) if what.motion == "grow" else (radius, radius)
    reach = radii[1] * 1.15 + 1
    way = _way(what.motion, HEIGHT - 2 * reach, rng)
    middle = [
        _place(side, reach + abs(length) / 2, side / 2 if anywhere else astray, rng)
        for side, length, astray in zip((WIDTH, HEIGHT), way, _ASTRAY, strict=True)
    ]
    x, y = middle
    return Scene(
        what=what,
        size=size,
        start=(x - way[0] / 2, y - way[1] / 2),
        end=(x + way[0] / 2, y + way[1] / 2),
        radii=radii,
        brightness=rng.uniform(0.97, 1.02),
        horizon=rng.uniform(0.5, 0.6) * HEIGHT,
        wave=(rng.uniform(1.0, 3.0), rng.uniform(0.5, 1.0), rng.uniform(0, 2 * np.pi)),
    )


def _place(side: int, margin: float, astray: float, rng: np.random.Generator) -> float:
    """A place no farther than this from the middle of the side, nor nearer to its ends than the margin."""
    most = max(0.0, min(astray, side / 2 - margin))
    return side / 2 + rng.uniform(-most, most)


def _way(motion: str, headroom: float, rng: np.random.Generator) -> tuple[float, float]:
    """How far the shape goes, in pixels to the right and down."""
    sideways, upright = rng.uniform(46, 58), headroom * rng.uniform(0.75, 1.0)
    return {
        "right": (sideways, 0.0),
        "left": (-sideways, 0.0),
        "up": (0.0, -upright),
        "down": (0.0, upright),
        "grow": (0.0, 0.0),
        "still": (0.0, 0.0),
    }[motion]
