"""The world's colours, as RGB in 0..1."""

from collections.abc import Mapping

RGB = tuple[float, float, float]

SHAPE_RGB: Mapping[str, RGB] = {
    "red": (0.88, 0.12, 0.14),
    "orange": (0.98, 0.50, 0.06),
    "yellow": (0.99, 0.87, 0.10),
    "green": (0.08, 0.62, 0.22),
    "blue": (0.12, 0.26, 0.90),
    "purple": (0.58, 0.16, 0.78),
}
BACKGROUND_RGB: Mapping[str, tuple[RGB, RGB]] = {
    "sky": ((0.42, 0.68, 0.95), (0.80, 0.91, 0.99)),
    "night": ((0.04, 0.05, 0.13), (0.13, 0.14, 0.30)),
    "sand": ((0.97, 0.89, 0.73), (0.86, 0.73, 0.50)),
    "meadow": ((0.84, 0.93, 0.72), (0.58, 0.78, 0.42)),
    "snow": ((0.87, 0.91, 0.97), (0.98, 0.98, 1.00)),
    "fog": ((0.46, 0.48, 0.51), (0.64, 0.65, 0.67)),
}
"""Far colour (the top of the picture) and near colour (its bottom)."""
