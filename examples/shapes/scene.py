"""One scene of the world: what is in it, drawn at random, and which combinations training never sees."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass

import numpy as np

from pipeline.scoring.shapes import BACKGROUNDS, COLOURS, MOTIONS, SHAPES

WIDTH, HEIGHT, FRAMES = 128, 64, 17
HELD_OUT_SHARE = 0.15
SMALL, LARGE = (10.5, 12.5), (14.0, 17.0)
"""Radii in pixels of what is called small and large; between them lies what is called neither."""


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


def draw_scene(what: Combination, rng: np.random.Generator) -> Scene:
    """A scene of this combination in which the whole shape is in the picture in every frame."""
    size = ("small", "large", "medium")[rng.choice(3, p=(0.3, 0.4, 0.3))]
    radius = rng.uniform(*{"small": SMALL, "large": LARGE, "medium": (SMALL[1], LARGE[0])}[size])
    radii = (radius * rng.uniform(0.45, 0.6), radius * 1.1) if what.motion == "grow" else (radius, radius)
    reach = radii[1] * 1.15 + 1
    dx, dy = _way(what.motion, HEIGHT - 2 * reach, rng)
    x = rng.uniform(reach + abs(dx) / 2, WIDTH - reach - abs(dx) / 2)
    y = rng.uniform(reach + abs(dy) / 2, max(HEIGHT - reach - abs(dy) / 2, reach + abs(dy) / 2))
    return Scene(
        what=what,
        size=size,
        start=(x - dx / 2, y - dy / 2),
        end=(x + dx / 2, y + dy / 2),
        radii=radii,
        brightness=rng.uniform(0.96, 1.03),
        horizon=rng.uniform(0.45, 0.65) * HEIGHT,
        wave=(rng.uniform(1.0, 4.0), rng.uniform(0.5, 1.0), rng.uniform(0, 2 * np.pi)),
    )


def _way(motion: str, headroom: float, rng: np.random.Generator) -> tuple[float, float]:
    """How far the shape goes, in pixels to the right and down."""
    sideways, upright = rng.uniform(44, 64), headroom * rng.uniform(0.75, 1.0)
    return {
        "right": (sideways, 0.0),
        "left": (-sideways, 0.0),
        "up": (0.0, -upright),
        "down": (0.0, upright),
        "grow": (0.0, 0.0),
        "still": (0.0, 0.0),
    }[motion]
