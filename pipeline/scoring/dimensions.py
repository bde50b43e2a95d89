"""The native VBench dimensions: from a clip to the number that the official code gives. VBench is Huang et al. 2024.

Deliberate differences: a clip for which the official code fails or gets no number is "not scored".
"""

import itertools

import numpy as np
from numpy.typing import NDArray

from pipeline.scoring.clip import Clip, Frames
from pipeline.scoring.kinetics import KINETICS_400
from pipeline.scoring.metric import Context, Score, not_scored

FLOW_SHARE = 0.05
"""dynamic_degree looks at the fastest 5 % of pixels."""
FLOW_LIMIT = 6.0
"""Pixels a frame pair must move, for 256 pixels of the shorter side."""
FLOW_FPS = 8
"""Frames a second that are compared."""
STATIC_SHARE = 0.02
STATIC_LIMIT = 3.0
ACTION_LEAST = 0.85
ACTION_TOP = 5


def temporal_flickering(clip: Clip, _context: Context) -> Score:
    """1 minus the mean absolute difference of consecutive frames, of 1. The official protocol drops moving clips."""
    if len(clip.frames) < 2:
        return _too_short(clip, 2)
    frames = clip.frames
    apart = [np.mean(np.abs(a.astype(np.float32) - b.astype(np.float32))) for a, b in itertools.pairwise(frames)]
    score = (255.0 - float(np.mean(np.array(apart)))) / 255.0
    return Score(score, weight=len(apart), details={"static_filter": "not applied"})


def subject_consistency(clip: Clip, context: Context) -> Score:
    if len(clip.frames) < 2:
        return _too_short(clip, 2)
    model = context.models.get("dino")
    return _consistency(clip.once(("dino", id(model)), lambda: model.features(clip)))


def background_consistency(clip: Clip, context: Context) -> Score:
    if len(clip.frames) < 2:
        return _too_short(clip, 2)
    return _consistency(context.models.get("clip_b32").features(clip))


def aesthetic_quality(clip: Clip, context: Context) -> Score:
    ratings = context.models.get("aesthetic").ratings(clip)
    return Score(float((ratings / 10).mean()), weight=len(clip.frames))


def imaging_quality(clip: Clip, context: Context) -> Score:
    """0..100 for a clip, as officially; the aggregate over clips is of 0..1."""
    scores = context.models.get("musiq").scores(clip)
    return Score(sum(scores) / len(scores), weight=len(scores))


def appearance_style(clip: Clip, context: Context) -> Score:
    """Likeness to the style phrase of the suite, which is not the prompt."""
    from pipeline.scoring.models.clip_text import TextTooLongError  # noqa: PLC0415 - loads torch

    try:
        likeness = context.models.get("clip_b32_text").likeness(clip, _phrase(context, "appearance_style"))
    except TextTooLongError as error:
        return not_scored(str(error))
    return Score(
        float(np.mean(likeness)), weight=len(likeness), details={"style": _phrase(context, "appearance_style")}
    )


def video_text_likeness(clip: Clip, context: Context) -> Score:
    """temporal_style and overall_consistency: the same arithmetic on other prompts, so computed once per clip."""
    model = context.models.get("viclip")
    video = clip.once(("viclip", id(model)), lambda: model.video(clip))
    return Score(float(video @ model.text(context.prompt).t()))


def human_action(clip: Clip, context: Context) -> Score:
    """1 if the asked action is among the five likeliest, with at least 0.85; else 0."""
    action = action_of(context.prompt or "")
    if action not in KINETICS_400:
        return not_scored(f"{action!r} is not an action of Kinetics-400, so it could never be recognised")
    top = context.models.get("umt").top(clip, ACTION_TOP)
    if not np.all(np.isfinite([value for _, value in top])):
        return not_scored("the model's answer is not a number: its weights are damaged")
    probabilities = {KINETICS_400[index]: round(value, 4) for index, value in top}
    recognised = probabilities.get(action, 0.0) >= ACTION_LEAST
    return Score(float(recognised), details={"asked": action, "top": probabilities})


def action_of(prompt: str) -> str:
    """Return what the official code reads from ``PROMPT-0.mp4``: after "person is ", up to a hyphen or underscore."""
    return prompt.lower().split("-")[0].split("person is ")[-1].split("_")[0].strip()


def dynamic_degree(clip: Clip, context: Context) -> Score:
    """1 if enough of the frame pairs at about 8 frames a second move, else 0."""
    if clip.fps is None:
        return not_scored("the file does not say its frame rate, which decides which frames are compared")
    frames = clip.frames[:: max(1, round(float(clip.fps) / FLOW_FPS))]
    speeds = _speeds(frames, list(itertools.pairwise(range(len(frames)))), context, FLOW_SHARE)
    if not np.all(np.isfinite(speeds)):
        return _no_flow(clip)
    limit = FLOW_LIMIT * min(clip.height, clip.width) / 256
    needed = round(4 * len(frames) / 16)
    hits = int(np.sum(speeds > limit))
    moves = len(speeds) > 0 and hits >= needed
    details = {"kept_frames": len(frames), "hits": hits, "needed": needed, "limit": limit, "speeds": speeds.tolist()}
    return Score(float(moves), details=details)


def static_filter(clip: Clip, context: Context) -> Score:
    """1 if the clip stands still by VBench's filter for temporal_flickering, else 0. Compares every frame pair."""
    last = len(clip.frames) - 1
    pairs = [*itertools.pairwise(range(last + 1)), (0, last), (last, 0)]
    speeds = _speeds(clip.frames, pairs, context, STATIC_SHARE)
    if not np.all(np.isfinite(speeds)):
        return _no_flow(clip)
    limit = STATIC_LIMIT * min(clip.height, clip.width) / 256
    return Score(float(is_static(speeds, limit)), details={"limit": limit, "speeds": speeds.tolist()})


def is_static(speeds: NDArray[np.float32], limit: float) -> bool:
    """The filter's rule: few consecutive pairs are fast, and first and last frame are not far apart.

    ``speeds`` are those of consecutive frames, and then of first to last and last to first.
    """
    frames = len(speeds) - 1
    allowed = round(2 * frames / 16)
    near = bool(np.all(speeds[-2:] <= limit * allowed * 2))
    return int(np.sum(speeds[:-2] > limit)) <= allowed and near


def _speeds(frames: Frames, pairs: list[tuple[int, int]], context: Context, share: float) -> NDArray[np.float32]:
    """Mean speed of each pair's fastest pixels; nothing is computed for clips whose flow is known to have no number."""
    from pipeline.scoring.models.raft import LEAST_SIDE  # noqa: PLC0415 - loads torch

    if pairs and min(frames.shape[1:3]) <= LEAST_SIDE - 8:  # padding reaches the next multiple of 8
        return np.array([np.nan], dtype=np.float32)
    pair_speeds = []
    for flow in context.models.get("raft").flows(frames, pairs):
        speeds = flow.square().sum(0).sqrt().cpu().numpy().ravel()
        count = int(speeds.size * share)
        pair_speeds.append(np.mean(-np.sort(-speeds)[:count]))
    return np.array(pair_speeds, dtype=np.float32)


def _no_flow(clip: Clip) -> Score:
    size = f"{clip.width}x{clip.height}"
    return not_scored(f"the flow is not a number: RAFT needs more than 120 pixels a side, and the clip is {size}")


def _consistency(features: object) -> Score:
    from pipeline.scoring.models.consistency import pair_scores  # noqa: PLC0415 - loads torch

    similarities = pair_scores(features)  # type: ignore[arg-type]
    return Score(sum(similarities) / len(similarities), weight=len(similarities))


def _phrase(context: Context, dimension: str) -> str:
    """The suite wraps some dimensions' information once more under their own name."""
    phrase = context.auxiliary[dimension]
    while isinstance(phrase, dict) and dimension in phrase:
        phrase = phrase[dimension]
    return str(phrase)


def _too_short(clip: Clip, least: int) -> Score:
    return not_scored(f"needs at least {least} frames; this clip has {len(clip.frames)}")
