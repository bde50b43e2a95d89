"""Metrics of a clip's sound: CLAP's likeness of it to the prompt, and the word error rate of what is said in it."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.media.opening import UnreadableMediaError
from pipeline.media.sound import read_sound
from pipeline.scoring.clip import Clip
from pipeline.scoring.metric import Context, Metric, Need, Score, not_scored
from pipeline.scoring.residency import weights_of

_LEAST_S = 0.1


def clap(clip: Clip, context: Context) -> Score:
    """Mean over windows of ten seconds of the cosine of sound and prompt, by CLAP."""
    model = context.models.get("clap")
    samples = _samples(clip, clip.path, model.rate)
    if isinstance(samples, str):
        return not_scored(samples)
    cosines = model.likeness(samples, context.prompt)
    return Score(float(np.mean(cosines)), weight=len(cosines), details={"seconds": len(samples) / model.rate})


def _samples(clip: Clip, path: Path, rate: int) -> Any:
    """The clip's sound, or a sentence that says why there is none to score."""
    if not clip.has_audio:
        return "the clip has no sound"
    try:
        samples = read_sound(path, rate)
    except UnreadableMediaError as error:
        return f"its sound cannot be read: {error}"
    if len(samples) < _LEAST_S * rate:
        return f"its sound has {len(samples) / rate:.3g} s; it needs {_LEAST_S:g} s"
    return samples if np.any(samples) else "its sound is silent"


CLAP = Metric(
    "sound.clap",
    "sound like the prompt, by CLAP",
    clap,
    needs=frozenset({Need.PROMPT, Need.WEIGHTS, Need.GPU}),
    low=-1.0,
    family="clap",
    weights=weights_of("clap"),
)
