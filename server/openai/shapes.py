"""A clip's size from its aspect ratio and its short edge."""

import re

from pipeline.presets import Preset
from pipeline.prompts.numbers import show, whole

_RATIO = re.compile(r"\s*([0-9]{1,4})\s*[:/x]\s*([0-9]{1,4})\s*")


def size_of(aspect_ratio: object, short_edge: object, preset: Preset) -> tuple[int, int]:
    """Width and height. The short edge is what was asked for, or the preset's; the long edge the nearest to the ratio
    that the preset can make. Raises ValueError with the value and the rule."""
    defaults, rule = preset.defaults, preset.size
    ratio = (defaults.width, defaults.height)
    if aspect_ratio is not None:
        match = _RATIO.fullmatch(str(aspect_ratio))
        if match is None or not int(match[1]) or not int(match[2]):
            raise ValueError(f"{show(aspect_ratio)} is not a valid aspect ratio: use 16:9, 9:16 or 1:1")
        ratio = int(match[1]), int(match[2])
    short = min(defaults.width, defaults.height)
    if short_edge is not None:
        short = int(str(whole(1, 100_000)(short_edge, True)))
    if not rule.allows(short):
        near = " or ".join(map(str, rule.nearest(short)))
        raise ValueError(f"{short} is not a valid short edge for {preset.name!r}; nearest: {near}")
    exact = short * max(ratio) / min(ratio)
    long = min(rule.nearest(round(exact)), key=lambda pixels: abs(pixels - exact))
    if abs(long - exact) > rule.multiple:
        raise ValueError(f"{ratio[0]}:{ratio[1]} with a short edge of {short} is too long for {preset.name!r}")
    return (long, short) if ratio[0] >= ratio[1] else (short, long)
