"""Metrics of a clip's sound: CLAP's likeness of it to the prompt, and the word error rate of what is said in it."""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.media.opening import UnreadableMediaError
from pipeline.media.sound import read_sound
from pipeline.scoring.clip import Clip
from pipeline.scoring.metric import Context, Direction, Metric, Need, Pooling, Score, not_scored
from pipeline.scoring.residency import weights_of

_LEAST_S = 0.1
_MOST_SHOWN = 500
_QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|«([^»]+)»')
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*'?")


def clap(clip: Clip, context: Context) -> Score:
    """Mean over windows of ten seconds of the cosine of sound and prompt, by CLAP."""
    model = context.models.get("clap")
    samples = _samples(clip, clip.path, model.rate)
    if isinstance(samples, str):
        return not_scored(samples)
    cosines = model.likeness(samples, context.prompt)
    return Score(float(np.mean(cosines)), weight=len(cosines), details={"seconds": len(samples) / model.rate})


def word_error_rate(clip: Clip, context: Context) -> Score:
    """The words that Whisper hears otherwise than the prompt has them in quotes, of as many: 0 is word for word.

    Substituted, deleted and inserted words count (Levenshtein); more than are asked for give more than 1. Case and
    punctuation do not count.
    """
    asked = words(" ".join(quoted(context.prompt or "")))
    if not asked:
        return not_scored("the prompt has no words in quotes, so nothing that should be said")
    model = context.models.get("whisper")
    samples = _samples(clip, clip.path, model.rate)
    if isinstance(samples, str):
        return not_scored(samples)
    heard = model.transcript(samples)
    errors = edit_distance(asked, words(heard))
    details = {"asked": " ".join(asked), "heard": heard[:_MOST_SHOWN], "errors": errors}
    return Score(errors / len(asked), weight=len(asked), details=details)


def quoted(prompt: str) -> list[str]:
    """What stands in double quotes, straight or curly, or in «…»."""
    return [next(group for group in match if group) for match in _QUOTED.findall(prompt)]


def words(text: str) -> list[str]:
    """The words of a text, lower case, without punctuation but for apostrophes within a word."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return [word.strip("'") for word in _WORD.findall(plain) if word.strip("'")]


def edit_distance(asked: Sequence[str], heard: Sequence[str]) -> int:
    """The fewest words to substitute, delete and insert that make one of the other."""
    row = list(range(len(heard) + 1))
    for i, wanted in enumerate(asked, 1):
        before, row[0] = row[0], i
        for j, word in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (wanted != word))
    return row[-1]


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
    if not np.all(np.isfinite(samples)):
        return "its sound has samples that are not finite numbers"
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
WORD_ERROR_RATE = Metric(
    "sound.word_error_rate",
    "words said otherwise than the prompt has them in quotes, by Whisper",
    word_error_rate,
    needs=frozenset({Need.PROMPT, Need.WEIGHTS, Need.GPU}),
    high=None,
    direction=Direction.LOWER,
    pooling=Pooling.WEIGHTED,
    family="whisper",
    weights=weights_of("whisper"),
)
