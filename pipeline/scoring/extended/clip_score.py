"""CLIPScore (Hessel et al. 2021) of a clip: how well its frames match the prompt, without a reference."""

import numpy as np

from pipeline.scoring.clip import Clip
from pipeline.scoring.metric import Context, Metric, Need, Score
from pipeline.scoring.residency import weights_of

WEIGHT = 2.5
"""The paper's factor, which stretches cosines to about 0..1."""
PREFIX = "A photo depicts "
"""What the paper puts before every caption."""


def clip_score(clip: Clip, context: Context) -> Score:
    """Mean over frames of 2.5 max(cosine, 0), by ViT-B/32, frames shrunk by PIL as in OpenAI's own code.

    A text of more than CLIP's 77 tokens is cut, as by the paper's code; ``details.cut`` says so.
    """
    model = context.models.get("clip_b32_text")
    cosines, cut = model.cosines(clip, PREFIX + (context.prompt or ""))
    scores = WEIGHT * np.maximum(cosines, 0.0)
    details = {"least": float(scores.min()), **({"cut": True} if cut else {})}
    return Score(float(np.mean(scores)), weight=len(scores), details=details)


CLIP_SCORE = Metric(
    "text.clip_score",
    "like the prompt, by CLIP (CLIPScore)",
    clip_score,
    needs=frozenset({Need.PROMPT, Need.WEIGHTS, Need.GPU}),
    high=WEIGHT,
    family="clip_b32_text",
    weights=weights_of("clip_b32_text"),
)
