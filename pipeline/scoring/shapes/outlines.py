"""The outlines of the world's shapes, as signed distances: the renderer fills them, the detector compares with them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def distance(shape: str, x: Floats, y: Floats, radius: Floats) -> Floats:
    """Signed distance in pixels from the outline, below 0 inside; x to the right and y down from the centre."""
    if shape == "circle":
        return np.asarray(np.hypot(x, y) - radius)
    if shape == "square":
        side = radius * 0.86
        dx, dy = np.abs(x) - side + 1.5, np.abs(y) - side + 1.5
        return np.asarray(np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - 1.5)
    if shape == "triangle":
        return _triangle(x, y - radius * 0.18, radius * 1.02)
    return _star(x, y - radius * 0.04, radius * 1.16)


def _triangle(x: Floats, y: Floats, half: Floats) -> Floats:
    """An equilateral triangle with its tip up; ``half`` is half a side."""
    k = np.float32(np.sqrt(3))
    x, y = np.abs(x) - half, -y + half / k
    beyond = x + k * y > 0
    x, y = np.where(beyond, (x - k * y) / 2, x), np.where(beyond, (-k * x - y) / 2, y)
    x = x - np.clip(x, -2 * half, 0)
    return np.asarray(-np.hypot(x, y) * np.sign(y))


def _star(x: Floats, y: Floats, radius: Floats, waist: float = 0.46) -> Floats:
    """A star of five points, one up; ``waist`` is the inner radius as a share of the outer one."""
    angle = np.pi / 5
    turn = np.abs(np.mod(np.arctan2(x, -y) + angle, 2 * angle) - angle)
    length = np.hypot(x, y)
    qx, qy = length * np.sin(turn), length * np.cos(turn)  # one half of one point, its tip at (0, radius)
    bx, by = radius * waist * np.sin(angle), radius * waist * np.cos(angle)
    ex, ey = bx, by - radius
    along = np.clip((qx * ex + (qy - radius) * ey) / (ex * ex + ey * ey), 0, 1)
    sign = np.sign(qx * -ey + (qy - radius) * ex)
    return np.asarray(np.hypot(qx - along * ex, qy - radius - along * ey) * sign)
