"""Motion smoothness of our own: the warping error of Lai et al. 2018, by RAFT's flow.

VBench's motion_smoothness asks a model that is not free for commercial use to predict every second frame; this is
another number, of another scale, under a name of its own.
"""

import math

from pipeline.scoring.clip import Clip
from pipeline.scoring.metric import Context, Direction, Metric, Need, Score, not_scored
from pipeline.scoring.residency import weights_of


def warp_error(clip: Clip, context: Context) -> Score:
    """Mean over consecutive frames of the squared difference, of 1, between a frame and the next one moved back.

    Only pixels count that are seen in both, by the flow's own consistency. Frames that share none have no number.
    """
    from pipeline.scoring.models.raft import LEAST_SIDE  # noqa: PLC0415 - loads torch
    from pipeline.scoring.models.warping import warp_errors  # noqa: PLC0415 - loads torch

    if len(clip.frames) < 2:
        return not_scored(f"needs at least 2 frames; this clip has {len(clip.frames)}")
    if min(clip.height, clip.width) <= LEAST_SIDE - 8:
        size = f"{clip.width}x{clip.height}"
        return not_scored(f"RAFT needs more than 120 pixels a side, and the clip is {size}")
    pairs = warp_errors(context.models.get("raft"), clip.frames)
    errors = [error for error, seen in pairs if seen > 0]
    details = {"pairs": len(pairs), "seen": min(seen for _, seen in pairs)}
    if not errors:
        return not_scored("no pixel of any frame is seen in the next one, by the flow", **details)
    return Score(math.fsum(errors) / len(errors), weight=len(errors), details={**details, "most": max(errors)})


WARP_ERROR = Metric(
    "motion.warp_error",
    "difference of frames from the next moved back, by RAFT",
    warp_error,
    needs=frozenset({Need.WEIGHTS, Need.GPU}),
    direction=Direction.LOWER,
    family="raft",
    weights=weights_of("raft"),
)
