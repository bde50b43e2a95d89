"""The closed vocabulary: every word that says something, and what it says.

The renderer that draws the training clips, the captions, the tokenizer and the metric all read these tables, so a
word means the same to each of them. No word of a background is a colour of a shape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

COLOURS: Mapping[str, tuple[str, ...]] = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "tangerine"),
    "yellow": ("yellow", "golden", "lemon"),
    "green": ("green", "emerald"),
    "blue": ("blue", "navy", "cobalt"),
    "purple": ("purple", "violet"),
}
SHAPES: Mapping[str, tuple[str, ...]] = {
    "circle": ("circle", "disc", "disk", "ball"),
    "square": ("square", "box", "cube"),
    "triangle": ("triangle", "wedge"),
    "star": ("star",),
}
BACKGROUNDS: Mapping[str, tuple[str, ...]] = {
    "sky": ("sky", "daylight"),
    "night": ("night", "dark", "darkness"),
    "sand": ("sand", "desert", "beach", "dunes"),
    "meadow": ("meadow", "grass", "field", "lawn"),
    "snow": ("snow", "ice", "winter"),
    "fog": ("fog", "mist", "haze"),
}
SIZES: Mapping[str, tuple[str, ...]] = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
_GO = ("moves", "moving", "drifts", "drifting", "slides", "sliding", "glides", "gliding", "travels", "flies")
MOTIONS: Mapping[str, tuple[str, ...]] = {
    "right": ("right", "rightwards"),
    "left": ("left", "leftwards"),
    "up": ("up", "upwards", "rises", "rising", "climbs", "climbing", "ascends"),
    "down": ("down", "downwards", "falls", "falling", "sinks", "sinking", "drops", "descends"),
    "grow": ("grows", "growing", "expands", "expanding", "swells", "bigger", "larger"),
    "still": ("still", "rests", "resting", "motionless", "unmoving", "waits", "static"),
}
"""The words that decide a motion. ``from left to right`` names two: the later one is where the shape goes."""
_FILLERS = (
    "a", "an", "the", "in", "on", "over", "at", "by", "of", "to", "from", "is", "and", "with", "before", "under",
    "that", "stays", "sits", "gets", "towards", "clear", "open", "there", "shows", "it", "we", "see", "clip", "which",
    ",", ".",
)  # fmt: skip

_TABLES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "colour": COLOURS,
    "shape": SHAPES,
    "background": BACKGROUNDS,
    "motion": MOTIONS,
    "size": SIZES,
}
MEANINGS = {word: (table, name) for table, rows in _TABLES.items() for name, words in rows.items() for word in words}
VOCABULARY: tuple[str, ...] = tuple(dict.fromkeys((*MEANINGS, *_GO, *_FILLERS)))
"""Every word that has a token of its own, in a fixed order."""
MOVING_VERBS = _GO


@dataclass(frozen=True, slots=True)
class Asked:
    """What a prompt asks for; None where it says nothing about that."""

    colour: str | None = None
    shape: str | None = None
    background: str | None = None
    motion: str | None = None
    size: str | None = None


def asked_for(prompt: str) -> Asked:
    """What the prompt asks for. Words outside the vocabulary are passed over; of two words, the later one counts."""
    named: dict[str, str] = {}
    for word in re.findall(r"[a-z]+", prompt.lower()):
        if word in MEANINGS:
            table, name = MEANINGS[word]
            named[table] = name
    return Asked(**named)
