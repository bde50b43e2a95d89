"""What a clip of the world shows, read from its pixels: colours, shape, motion, size. Code only, no model.

The shape is where the colour leaves what a shadow on the background could be. Its outline is compared, at one size and
centred, with the outlines that the renderer fills; its motion is the way of its centre and the change of its area.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.scoring.shapes.outlines import distance
from pipeline.scoring.shapes.palette import BACKGROUND_RGB, SHAPE_RGB
from pipeline.scoring.shapes.words import SHAPES

Floats = NDArray[np.floating[Any]]
_GRID = 28
_LEAST_CONTRAST = 0.16
_LEAST_AREA = 0.004
"""As a share of the picture's height squared: below it nothing counts as a shape."""
_MOVED, _GREW = 0.17, 1.3
"""The least way, as a share of the height, and the least growth of the radius that count as motion."""
_SMALL, _LARGE = 0.211, 0.247
"""Radius as a share of the height: small is below the first, large above the second."""
_FRAMES_READ = 6
"""Of the frames in which the shape is largest."""
_MOST_FRAMES = 32


@dataclass(frozen=True, slots=True)
class Seen:
    """What a clip shows. The shape's values are None where no shape stands out of the background."""

    background: str
    colour: str | None = None
    shape: str | None = None
    motion: str | None = None
    size: str | None = None
    way: tuple[float, float] = (0.0, 0.0)
    """From the first to the last frames, right and down, in heights of the picture."""
    growth: float = 1.0
    """The last radius divided by the first."""


def see(frames: NDArray[np.uint8]) -> Seen:
    """Read a clip, frames × height × width × 3."""
    clip = _reduced(frames)
    cover = _cover(clip)
    background = _background(clip, cover)
    height = clip.shape[1]
    areas = cover.sum(axis=(1, 2))
    present = areas > _LEAST_AREA * height**2
    if present.sum() < max(2, len(clip) // 3):
        return Seen(background)
    centres = np.stack([_centre(one, area) for one, area in zip(cover[present], areas[present], strict=True)]) / height
    radii = np.sqrt(areas[present])
    ends = max(1, min(3, len(radii) // 3))
    way = centres[-ends:].mean(0) - centres[:ends].mean(0)
    growth = float(radii[-ends:].mean() / radii[:ends].mean())
    best = np.argsort(areas)[-_FRAMES_READ:]
    shape = _shape(cover[best], areas[best])
    radius = float(np.sqrt(np.median(areas[best]) / _unit_area(shape)) / height)
    return Seen(
        background=background,
        colour=_colour(clip[best], cover[best]),
        shape=shape,
        motion=_motion(float(way[0]), float(way[1]), growth),
        size="small" if radius < _SMALL else "large" if radius > _LARGE else "medium",
        way=(round(float(way[0]), 3), round(float(way[1]), 3)),
        growth=round(growth, 3),
    )


def _reduced(frames: NDArray[np.uint8]) -> Floats:
    """At most 32 frames, spread evenly, of less than 160 lines each, as 0..1: larger clips cost no more to read."""
    chosen = frames[np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _MOST_FRAMES)).round().astype(int))]
    factor = max(1, frames.shape[1] // 80)
    height, width = (side // factor * factor for side in frames.shape[1:3])
    cells = chosen[:, :height, :width].reshape(len(chosen), height // factor, factor, width // factor, factor, 3)
    return np.asarray(cells.mean(axis=(2, 4), dtype=np.float32) / 255)


def _cover(clip: Floats) -> Floats:
    """How much of each pixel is the shape, 0..1, frames × height × width."""
    behind = np.median(clip, axis=2, keepdims=True)  # of each row: the shape covers less than half of it
    scale = (clip * behind).sum(-1, keepdims=True) / (behind * behind).sum(-1, keepdims=True).clip(1e-4)
    apart = np.linalg.norm(clip - behind * scale.clip(0.5, 1.12), axis=-1)
    strong = np.sort(apart.reshape(len(clip), -1), axis=1)[:, -max(8, apart[0].size // 120) :]
    core = np.median(np.median(strong, axis=1))
    if core < _LEAST_CONTRAST:
        return np.zeros_like(apart)
    return np.stack([_in_one_place(one) for one in ((apart / core - 0.3) / 0.4).clip(0, 1)])


def _in_one_place(cover: Floats) -> Floats:
    """Without what lies farther from the middle than any outline of that area reaches: bits of the horizon."""
    ys, xs = np.mgrid[0 : cover.shape[0], 0 : cover.shape[1]]
    for _ in range(2):
        inside = cover > 0.5
        if not inside.any():
            return np.zeros_like(cover)
        apart = np.hypot(xs - np.median(xs[inside]), ys - np.median(ys[inside]))
        cover = cover * (apart < 1.35 * np.sqrt(cover.sum()) + 1)
    return cover


def _centre(cover: Floats, area: float) -> Floats:
    ys, xs = np.mgrid[0 : cover.shape[0], 0 : cover.shape[1]] + 0.5
    return np.array([(cover * xs).sum(), (cover * ys).sum()]) / area


def _background(clip: Floats, cover: Floats) -> str:
    """The nearest pair of far and near colours, each compared with the upper or lower third of the picture."""
    third = clip.shape[1] // 3
    shown = np.concatenate(
        [_mean_outside(clip[:, :third], cover[:, :third]), _mean_outside(clip[:, -third:], cover[:, -third:])]
    )
    pairs = {name: np.concatenate([np.array(rgb) for rgb in pair]) for name, pair in BACKGROUND_RGB.items()}
    return min(pairs, key=lambda name: float(np.linalg.norm(pairs[name] - shown)))


def _mean_outside(clip: Floats, cover: Floats) -> Floats:
    outside = (cover < 0.02)[..., None]
    return np.asarray((clip * outside).sum((0, 1, 2)) / max(float(outside.sum()), 1.0))


def _colour(clip: Floats, cover: Floats) -> str:
    """The shape colour of the nearest direction in RGB: light and shade change its length only."""
    inside = clip[cover > 0.9] if (cover > 0.9).sum() > 20 else clip[cover > 0.4]
    shown = np.median(inside, axis=0)
    shown = shown / max(float(np.linalg.norm(shown)), 1e-6)
    unit = {name: np.array(rgb) / np.linalg.norm(rgb) for name, rgb in SHAPE_RGB.items()}
    return max(unit, key=lambda name: float(unit[name] @ shown))


def _motion(right: float, down: float, growth: float) -> str:
    if max(abs(right), abs(down)) < _MOVED:
        return "grow" if growth > _GREW else "still"
    if abs(right) > abs(down):
        return "right" if right > 0 else "left"
    return "down" if down > 0 else "up"


def _shape(cover: Floats, areas: Floats) -> str:
    mean = np.mean([_normalised(one, float(area)) for one, area in zip(cover, areas, strict=True)], axis=0)
    return min(SHAPES, key=lambda name: float(np.square(_template(name)[0] - mean).sum()))


def _normalised(cover: Floats, area: float) -> Floats:
    """The shape at unit area around its centre, on a grid of 2 × 2 units."""
    cx, cy = _centre(cover, area)
    steps = (np.arange(_GRID) + 0.5) / _GRID * 2 - 1
    xs, ys = cx + steps * np.sqrt(area) - 0.5, cy + steps * np.sqrt(area) - 0.5
    rows = _weights(ys, cover.shape[0])
    columns = _weights(xs, cover.shape[1])
    return np.asarray(rows @ cover @ columns.T)


def _weights(at: Floats, size: int) -> Floats:
    """Linear interpolation at these places as a matrix, places × size; beyond the picture is nothing."""
    return np.asarray((1 - np.abs(at[:, None] - np.arange(size))).clip(0))


@cache
def _template(shape: str) -> tuple[Floats, float]:
    """The outline filled and normalised, and its area in squared radii."""
    radius = 40.0
    ys, xs = np.mgrid[-64:64, -64:64] + 0.5
    cover = np.clip(0.5 - distance(shape, xs, ys, np.asarray(radius)), 0, 1)
    area = float(cover.sum())
    return _normalised(cover, area), area / radius**2


def _unit_area(shape: str) -> float:
    return _template(shape)[1]
