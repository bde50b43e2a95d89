"""Draws a scene: one soft-lit shape with its shadow before a gradient with a horizon; numpy only, antialiased."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from examples.shapes.scene import FRAMES, HEIGHT, WIDTH, Scene
from pipeline.scoring.shapes.outlines import distance
from pipeline.scoring.shapes.palette import BACKGROUND_RGB, SHAPE_RGB

Floats = NDArray[np.float32]
_LIGHT = np.array((-0.45, -0.65, 0.61), np.float32)
_SHADOW_OFFSET = (2.5, 4.5)
_HILLS = frozenset({"sand", "meadow", "snow"})


def render(scene: Scene, frames: int = FRAMES) -> NDArray[np.uint8]:
    """The clip, frames × height × width × 3."""
    u = np.linspace(0, 1, frames, dtype=np.float32)
    u = 0.5 * u + 0.5 * (u * u * (3 - 2 * u))  # starts and ends softly
    x, y = (a + (b - a) * u for a, b in zip(scene.start, scene.end, strict=True))
    radius = scene.radii[0] + (scene.radii[1] - scene.radii[0]) * u
    ys, xs = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32) + np.float32(0.5)
    px, py = xs[None] - x[:, None, None], ys[None] - y[:, None, None]
    radius = radius[:, None, None]
    picture = np.repeat(_background(scene, xs, ys)[None], frames, axis=0)
    near = _window(scene)  # only there do the shape and its shadow change anything
    px, py = px[near], py[near]

    shadow = distance(scene.what.shape, px - _SHADOW_OFFSET[0], py - _SHADOW_OFFSET[1], radius)
    darkness = 0.34 * _smooth((4.0 - shadow) / 8.0)
    under = picture[near] * (1 - darkness[..., None])

    away = distance(scene.what.shape, px, py, radius)
    cover = np.clip(0.5 - away, 0, 1)[..., None]
    picture[near] = under * (1 - cover) + _lit(SHAPE_RGB[scene.what.colour], away, radius) * cover
    return (np.clip(picture * scene.brightness, 0, 1) * 255 + 0.5).astype(np.uint8)


def _window(scene: Scene) -> tuple[slice, slice, slice]:
    reach = max(scene.radii) * 1.25 + 10
    (x0, x1), (y0, y1) = (sorted(pair) for pair in zip(scene.start, scene.end, strict=True))
    rows = slice(max(int(y0 - reach), 0), int(y1 + reach) + 1)
    return slice(None), rows, slice(max(int(x0 - reach), 0), int(x1 + reach) + 1)


def _lit(rgb: tuple[float, float, float], away: Floats, radius: Floats) -> Floats:
    """The shape's surface under the light: rounded at its rim, with a soft highlight."""
    gy, gx = np.gradient(away, axis=(1, 2))
    rim = 1 - np.clip(-away / (radius * 0.55), 0, 1)
    nz = np.sqrt(np.clip(1 - 0.9 * rim * rim, 0, 1))
    light = gx * rim * _LIGHT[0] + gy * rim * _LIGHT[1] + nz * _LIGHT[2]
    shine = np.clip(light, 0, 1) ** 8 * 0.22
    return np.array(rgb, np.float32) * (0.58 + 0.62 * np.clip(light, -0.2, 1))[..., None] + shine[..., None]


def _background(scene: Scene, xs: Floats, ys: Floats) -> Floats:
    far, near = (np.array(rgb, np.float32) for rgb in BACKGROUND_RGB[scene.what.background])
    amplitude, periods, phase = scene.wave
    line = scene.horizon + amplitude * np.sin(xs / WIDTH * 2 * np.pi * periods + phase)
    if scene.what.background in _HILLS:
        ground = _smooth((ys - line) / 3.0 + 0.5) * (0.55 + 0.45 * ys / HEIGHT)
        mix = np.clip(0.15 * ys / HEIGHT + ground, 0, 1)
    else:
        mix = _smooth(ys / HEIGHT + 0.004 * (line - scene.horizon))
    picture = far + (near - far) * mix[..., None]
    glow = np.exp(-((xs - WIDTH * 0.2) ** 2 + (ys + HEIGHT * 0.1) ** 2) / (2 * 34.0**2))
    return picture + (0.06 * glow)[..., None]


def _smooth(x: Floats) -> Floats:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
