"""``shapes.follows_prompt``: how much of what the prompt asks for is in the clip, read from the pixels by code."""

from pipeline.scoring.clip import Clip
from pipeline.scoring.metric import Context, Metric, Need, Score, not_scored
from pipeline.scoring.shapes.detector import see
from pipeline.scoring.shapes.words import asked_for

PARTS = ("colour", "shape", "background", "motion")
"""What counts. A size is a matter of degree: the details name it, and it does not count."""


def follows_prompt(clip: Clip, context: Context) -> Score:
    """The share of what the prompt asks for (colour, shape, background, motion) that the clip shows."""
    asked = asked_for(context.prompt or "")
    wanted = {part: getattr(asked, part) for part in PARTS if getattr(asked, part) is not None}
    if not wanted:
        return not_scored("the prompt names no colour, shape, background or motion of this metric's world")
    seen = see(clip.frames)
    shown = {part: getattr(seen, part) for part in (*PARTS, "size")}
    right = [part for part, name in wanted.items() if shown[part] == name]
    return Score(len(right) / len(wanted), details={"asked": wanted, "shown": shown, "right": right})


SHAPES_METRICS = (
    Metric(
        "shapes.follows_prompt",
        "share of what a prompt of the shapes world asks for that is shown",
        follows_prompt,
        needs=frozenset({Need.PROMPT}),
    ),
)
