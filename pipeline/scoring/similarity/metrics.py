"""Metrics against a reference clip, frame by frame: PSNR, SSIM, MS-SSIM, LPIPS, temporal LPIPS and CLIP likeness.

PSNR is of all pixels and channels of a frame. SSIM is Wang et al. 2004 with their 11x11 Gaussian window (sigma 1.5),
K1 0.01, K2 0.03, valid windows only, mean over RGB; MS-SSIM is Wang et al. 2003 with their five weights. LPIPS is Zhang
et al. 2018, version 0.1 on AlexNet. Temporal LPIPS is Chu et al. 2020 (TecoGAN, "tLP", without their factor of 100).
CLIP likeness is the cosine of the image features of CLIP ViT-B/32 (Radford et al. 2021). All are means over frames,
or, of temporal LPIPS, over pairs of consecutive frames.
"""

from typing import Any

import numpy as np

from pipeline.scoring.clip import Clip, Frames
from pipeline.scoring.metric import Context, Direction, Metric, Need, Score, not_scored
from pipeline.scoring.residency import weights_of

SSIM_WINDOW = 11
SSIM_SCALES = 5
MS_SSIM_LEAST = (SSIM_WINDOW - 1) * 2 ** (SSIM_SCALES - 1) + 1
"""The smallest side whose fifth scale still holds one window: 161 pixels."""
LPIPS_LEAST = 31
"""The smallest side of which AlexNet's two poolings leave something: 31 pixels."""
MAX_PSNR = 100.0
"""dB, given for equal frames, whose PSNR is infinite."""


def psnr(clip: Clip, context: Context) -> Score:
    """Mean over frames of the PSNR in dB over all pixels and channels."""
    problem = _mismatch(clip, context, 1)
    return not_scored(problem) if problem else _higher(_model(context).psnr(clip.frames, _frames(context)))


def ssim(clip: Clip, context: Context) -> Score:
    """Mean over frames of SSIM, -1 to 1."""
    problem = _mismatch(clip, context, SSIM_WINDOW)
    return not_scored(problem) if problem else _higher(_model(context).ssim(clip.frames, _frames(context)))


def ms_ssim(clip: Clip, context: Context) -> Score:
    """Mean over frames of MS-SSIM, 0 to 1."""
    problem = _mismatch(clip, context, MS_SSIM_LEAST)
    return not_scored(problem) if problem else _higher(_model(context).ms_ssim(clip.frames, _frames(context)))


def lpips(clip: Clip, context: Context) -> Score:
    """Mean over frames of the distance to the reference's frame, from 0."""
    problem = _mismatch(clip, context, LPIPS_LEAST)
    return not_scored(problem) if problem else _lower(_perceptual(context).between(clip.frames, _frames(context)))


def temporal_lpips(clip: Clip, context: Context) -> Score:
    """Mean over consecutive frames of how far their distances differ in the clip and in its reference, from 0."""
    problem = _mismatch(clip, context, LPIPS_LEAST)
    if problem is None and len(clip.frames) < 2:
        problem = f"needs at least 2 frames; this clip has {len(clip.frames)}"
    if problem is not None:
        return not_scored(problem)
    model, other = _perceptual(context), _frames(context)
    steps = model.between(clip.frames[:-1], clip.frames[1:])
    wanted = model.between(other[:-1], other[1:])
    return _lower([abs(a - b) for a, b in zip(steps, wanted, strict=True)])


def clip_likeness(clip: Clip, context: Context) -> Score:
    """Mean over frames of the cosine of CLIP's image features, -1 to 1."""
    problem = _mismatch(clip, context, 1)
    if problem is not None:
        return not_scored(problem)
    assert context.reference is not None
    features = context.models.get("clip_b32").features
    mine, other = features(clip), features(context.reference)
    return _higher((mine * other).sum(dim=-1).clamp(-1, 1).tolist())


def _mismatch(clip: Clip, context: Context, least: int) -> str | None:
    """Return why the two cannot be compared; None where they can."""
    reference = context.reference
    if reference is None:
        return "needs a reference clip, and none was given"
    if clip.frames.shape != reference.frames.shape:
        return f"the clip has {_shape(clip)}, its reference {_shape(reference)}: they must be equal"
    if min(clip.width, clip.height) < least:
        return f"needs at least {least} pixels a side; the clip is {clip.width}x{clip.height}"
    return None


def _shape(clip: Clip) -> str:
    return f"{len(clip.frames)} frames of {clip.width}x{clip.height}"


def _frames(context: Context) -> Frames:
    assert context.reference is not None
    return context.reference.frames


def _model(context: Context) -> Any:  # of a module of torch, which this file does not load
    return context.models.get("similarity")


def _perceptual(context: Context) -> Any:
    return context.models.get("lpips")


def _higher(values: list[float]) -> Score:
    worst = int(np.argmin(values))
    return Score(float(np.mean(values)), weight=len(values), details={"least": values[worst], "worst_frame": worst})


def _lower(values: list[float]) -> Score:
    worst = int(np.argmax(values))
    return Score(float(np.mean(values)), weight=len(values), details={"most": values[worst], "worst_frame": worst})


_REFERENCE = frozenset({Need.REFERENCE})
_WEIGHED = _REFERENCE | {Need.WEIGHTS, Need.GPU}
COMMON = (
    Metric(
        "common.psnr", "peak signal-to-noise ratio, dB", psnr, 2, _REFERENCE, high=MAX_PSNR, family="similarity"
    ),
    Metric("common.ssim", "structural similarity", ssim, 2, _REFERENCE, low=-1.0, family="similarity"),
    Metric("common.ms_ssim", "multi-scale structural similarity", ms_ssim, 2, _REFERENCE, family="similarity"),
    Metric(
        "common.lpips", "perceptual distance, by AlexNet", lpips, 1, _WEIGHED, high=None,
        direction=Direction.LOWER, family="lpips", weights=weights_of("lpips"),
    ),
    Metric(
        "common.temporal_lpips", "difference of the perceptual steps from frame to frame", temporal_lpips, 1, _WEIGHED,
        high=None, direction=Direction.LOWER, family="lpips", weights=weights_of("lpips"),
    ),
    Metric(
        "common.clip", "likeness of the frames' meaning, by CLIP", clip_likeness, 1, _WEIGHED, low=-1.0,
        family="clip_b32", weights=weights_of("clip_b32"),
    ),
)  # fmt: skip
