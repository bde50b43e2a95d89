"""Sentences that ask for a scene: many words and orders for the same thing, some words unknown, some things unsaid."""

from __future__ import annotations

import numpy as np

from examples.shapes.scene import Combination
from pipeline.scoring.shapes.words import COLOURS, MOVING_VERBS, SHAPES, SIZES

_PLACES = {
    "sky": ("in the sky", "in a clear sky", "in the open sky", "in daylight"),
    "night": ("at night", "by night", "in the dark", "in the darkness", "in the night"),
    "sand": ("on sand", "on the sand", "in the desert", "on a beach", "over the dunes"),
    "meadow": ("on a meadow", "in the meadow", "on grass", "on the grass", "in a field", "on a lawn"),
    "snow": ("in the snow", "on snow", "on the ice", "in winter"),
    "fog": ("in the fog", "in fog", "in the mist", "in a haze"),
}
_VERBS = {
    "up": ("rises", "is rising", "climbs", "is climbing", "ascends"),
    "down": ("falls", "is falling", "sinks", "is sinking", "drops", "descends"),
    "grow": ("grows", "is growing", "expands", "is expanding", "swells", "gets bigger", "gets larger"),
    "still": ("stays still", "is still", "rests", "is resting", "waits", "is motionless", "is static", "sits still"),
}
_WAYS = {
    "right": ("right", "to the right", "rightwards", "from left to right", "towards the right"),
    "left": ("left", "to the left", "leftwards", "from right to left", "towards the left"),
    "up": ("up", "upwards"),
    "down": ("down", "downwards"),
}
_STRANGERS = (
    "shiny",
    "beautiful",
    "glossy",
    "wooden",
    "magic",
    "old",
    "quiet",
    "lovely",
    "painted",
    "happy",
    "strange",
)
"""Words that the tokenizer does not know; any other unknown word becomes the same token."""
TRAINED_ORDERS = (
    "{thing} {does} {place}",
    "{thing} {does} {place}",
    "{thing} {place} {does}",
    "{place} , {thing} {does}",
    "{thing} that {does} {place}",
    "{place} there is {thing} that {does}",
    "we see {thing} , it {does} {place}",
)
UNSEEN_ORDERS = ("{place} {thing} {does}", "{thing} , {place} , {does}", "a clip of {thing} that {does} , {place}")
"""Orders of a sentence that are kept for the evaluation."""


def caption(what: Combination, size: str, rng: np.random.Generator, *, evaluation: bool = False) -> str:
    """A sentence that asks for all of it; in training about one in seven leaves something out."""
    order = _one(UNSEEN_ORDERS if evaluation and rng.random() < 0.3 else TRAINED_ORDERS, rng)
    unsaid = None if evaluation or rng.random() > 0.15 else _one(("motion", "background", "colour"), rng)
    does = "" if unsaid == "motion" else does_phrase(what.motion, rng)
    words = order.format(
        thing=_thing(what, size, rng, coloured=unsaid != "colour"),
        does=does,
        place="" if unsaid == "background" else _one(_PLACES[what.background], rng),
    )
    text = " ".join(words.split()).removeprefix(", ").removesuffix(" ,").removesuffix(" that").replace(" ,", ",")
    return text + "." if rng.random() < 0.2 else text


def does_phrase(motion: str, rng: np.random.Generator) -> str:
    """A verb phrase for the motion."""
    verbs = _VERBS.get(motion, ())
    if motion in _WAYS and (not verbs or rng.random() < 0.3):
        verb = _one(MOVING_VERBS, rng)
        return f"{'is ' if verb.endswith('ing') else ''}{verb} {_one(_WAYS[motion], rng)}"
    return _one(verbs, rng)


def _thing(what: Combination, size: str, rng: np.random.Generator, *, coloured: bool) -> str:
    words = [_one(SIZES[size], rng)] if size in SIZES and rng.random() < 0.85 else []
    words += [_one(COLOURS[what.colour], rng)] if coloured else []
    if rng.random() < 0.2:
        words.insert(int(rng.integers(len(words) + 1)), _one(_STRANGERS, rng))
    words.append(_one(SHAPES[what.shape], rng))
    article = "the" if rng.random() < 0.1 else "an" if words[0][0] in "aeiou" else "a"
    return " ".join((article, *words))


def _one(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]
