"""VBench-I2V's subject and background: whether a clip that was made from a picture keeps what the picture shows.

The formula is that of the official code since July 2024; what it had before weighed the likest frame by half and
the mean of consecutive frames by half, and prepared DINO's pictures otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.scoring.clip import Clip
from pipeline.scoring.metric import Context, Metric, Need, Score, not_scored
from pipeline.scoring.residency import weights_of

if TYPE_CHECKING:
    from torch import Tensor

LIKEST, MEAN, LEAST = 0.4, 0.3, 0.3
"""The weights of the frame most like the picture, and of consecutive frames: their mean, and the pair least alike."""


def i2v_subject(clip: Clip, context: Context) -> Score:
    """The formula by DINO's features of middle squares."""
    if len(clip.frames) < 2:
        return _too_short(clip)
    assert context.image is not None
    model = context.models.get("dino")
    return _score(model.middles(clip), model.picture(context.image))


def i2v_background(clip: Clip, context: Context) -> Score:
    """The formula by DreamSim's features of whole frames, made square."""
    if len(clip.frames) < 2:
        return _too_short(clip)
    assert context.image is not None
    model = context.models.get("dreamsim")
    return _score(model.features(clip), model.picture(context.image))


def _score(frames: Tensor, picture: Tensor) -> Score:
    """The clip's score by unit features of its frames, (frames, width), and of the picture, (1, width)."""
    to_picture = np.maximum((frames @ picture.t()).numpy()[:, 0].astype(np.float64), 0.0)
    consecutive = np.maximum((frames[:-1] * frames[1:]).sum(-1).numpy().astype(np.float64), 0.0)
    likest, mean, least = float(to_picture.max()), float(consecutive.mean()), float(consecutive.min())
    details = {"like_picture": likest, "like_before": mean, "least_like_before": least}
    return Score(LIKEST * likest + MEAN * mean + LEAST * least, details=details)


def _too_short(clip: Clip) -> Score:
    return not_scored(f"needs at least 2 frames; this clip has {len(clip.frames)}")


_NEEDS = frozenset({Need.IMAGE, Need.WEIGHTS, Need.GPU})
I2V_SUBJECT = Metric(
    "vbench_i2v.i2v_subject",
    "like the picture it was made from, by DINO",
    i2v_subject,
    version=2,
    needs=_NEEDS,
    family="dino",
    weights=weights_of("dino"),
)
I2V_BACKGROUND = Metric(
    "vbench_i2v.i2v_background",
    "like the picture it was made from, by DreamSim",
    i2v_background,
    needs=_NEEDS,
    family="dreamsim",
    weights=weights_of("dreamsim"),
)
