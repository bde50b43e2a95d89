"""VBench-Long: a clip is cut into parts as the official code cuts it, and its score is the mean of theirs.

That is what the official evaluation does unless it is told otherwise: by default the likeness of the parts' first
frames to each other has weight 0. It writes each part as H.264 anew; here a part is the clip's own frames.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from pipeline.scoring.clip import Clip
from pipeline.scoring.metric import Context, Metric, Pooling, Score, not_scored
from pipeline.scoring.vbench import VBENCH

LONG_FROM_S = 5.0
"""Clips of that many seconds are VBench-Long's."""
PART_S = 2
WHOLE_TEXT_S = 10
_WHOLE_TEXT = frozenset({"human_action", "temporal_style", "overall_consistency"})
"""Dimensions whose parts have 10 seconds, and so have those of every clip that is for one of them."""


def is_long(clip: Clip) -> bool:
    """Return whether VBench would have the clip cut into parts."""
    return clip.fps is not None and len(clip.frames) / clip.fps >= LONG_FROM_S


def part_seconds(dimensions: tuple[str, ...] | None) -> int:
    """Return how long parts are: for a suite's clip by all dimensions that it is for, else 2 seconds."""
    return WHOLE_TEXT_S if dimensions is not None and _WHOLE_TEXT & set(dimensions) else PART_S


def parts(frames: int, fps: int, seconds: int) -> Iterator[range]:
    """The frames of each part: of equal length, the last one reaching back into the one before where it must.

    A clip shorter than a part is one part.
    """
    length = fps * seconds
    if frames < length:
        yield range(frames)
        return
    for start in range(0, frames - length + 1, length):
        yield range(start, start + length)
    if frames % length:
        yield range(frames - length, frames)


def score_parts(short: Metric, clip: Clip, context: Context) -> Score:
    """The mean of the parts' scores by the dimension; ``weight`` is how many they are."""
    if clip.fps is None or int(clip.fps) < 1:
        return not_scored("the file does not say a frame rate of at least 1, which decides where it is cut")
    seconds = part_seconds(context.dimensions)
    scores = []
    for frames in parts(len(clip.frames), int(clip.fps), seconds):
        part = replace(clip, frames=clip.frames[frames.start : frames.stop], _found={})
        scores.append(short.score_clip(part, context))
        if scores[-1].score is None:
            return not_scored(f"part {len(scores)} is not scored: {scores[-1].reason}")
    values = [score.score for score in scores if score.score is not None]
    pairs = short.dimension == "subject_consistency"  # the official code pools its frame pairs, and elsewhere parts
    weight = sum(score.weight for score in scores) if pairs else float(len(scores))
    mean = sum(values) / len(values)
    return Score(mean, weight=weight, details={"parts": values, "part_seconds": seconds})


VBENCH_LONG = tuple(
    replace(
        metric,
        name=f"vbench_long.{metric.dimension}",
        title=f"{metric.title}; in parts, as VBench-Long",
        score_clip=partial(score_parts, metric),
        pooling=Pooling.WEIGHTED,
    )
    for metric in VBENCH
    if not metric.external
)
