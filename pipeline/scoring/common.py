"""Metrics against a reference clip, frame by frame: PSNR, SSIM and MS-SSIM.

SSIM is Wang et al. 2004 with their 11x11 Gaussian window (sigma 1.5), K1 0.01, K2 0.03, valid windows only, mean over
RGB; MS-SSIM is Wang et al. 2003 with their five weights. Both are the mean over frames.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.scoring.clip import Clip
from pipeline.scoring.metric import Context, Metric, Need, Score, not_scored

Plane = NDArray[np.float64]

_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_WINDOW = 11
_SIGMA = 1.5
_SCALES = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
_MS_SSIM_LEAST = (_WINDOW - 1) * 2 ** (len(_SCALES) - 1) + 1
"""The smallest side whose fifth scale still holds one window: 161 pixels."""
MAX_PSNR = 100.0
"""Given for equal frames, whose PSNR is infinite."""


def psnr(clip: Clip, context: Context) -> Score:
    """Mean over frames of the PSNR in dB over all pixels and channels."""

    def frame(a: Plane, b: Plane) -> float:
        error = float(np.mean((a - b) ** 2))
        return MAX_PSNR if error == 0 else min(MAX_PSNR, float(10 * np.log10(255.0**2 / error)))

    return _over_frames(clip, context, frame)


def ssim(clip: Clip, context: Context) -> Score:
    if min(clip.width, clip.height) < _WINDOW:
        return not_scored(f"needs at least {_WINDOW} pixels a side; the clip is {clip.width}x{clip.height}")
    return _over_frames(clip, context, lambda a, b: float(np.mean(_similarity(a, b)[0])))


def ms_ssim(clip: Clip, context: Context) -> Score:
    if min(clip.width, clip.height) < _MS_SSIM_LEAST:
        return not_scored(f"needs at least {_MS_SSIM_LEAST} pixels a side; the clip is {clip.width}x{clip.height}")
    return _over_frames(clip, context, _multi_scale)


def _over_frames(clip: Clip, context: Context, measure: object) -> Score:
    reference = context.reference
    if reference is None:
        return not_scored("needs a reference clip, and none was given")
    if clip.frames.shape != reference.frames.shape:
        return not_scored(f"the clip has {_shape(clip)}, its reference {_shape(reference)}: they must be equal")
    assert callable(measure)
    values = [measure(a, b) for a, b in _pairs(clip, reference)]
    return Score(
        float(np.mean(values)), weight=len(values), details={"least": min(values), "reference": str(reference.path)}
    )


def _pairs(clip: Clip, reference: Clip) -> Iterator[tuple[Plane, Plane]]:
    for a, b in zip(clip.frames, reference.frames, strict=True):
        yield a.astype(np.float64), b.astype(np.float64)


def _shape(clip: Clip) -> str:
    return f"{len(clip.frames)} frames of {clip.width}x{clip.height}"


def _multi_scale(a: Plane, b: Plane) -> float:
    """Per channel the product over scales, contrast and structure at each and luminance at the last; then the mean."""
    result = np.ones(a.shape[2])
    for scale, weight in enumerate(_SCALES):
        similarity, contrast = _similarity(a, b)
        last = scale == len(_SCALES) - 1
        value = np.maximum((similarity if last else contrast).mean(axis=(0, 1)), 0.0)
        result *= value**weight
        a, b = _halved(a), _halved(b)
    return float(result.mean())


def _similarity(a: Plane, b: Plane) -> tuple[Plane, Plane]:
    """SSIM, and its contrast-structure part, of each valid window: (height - 10, width - 10, channels)."""
    mean_a, mean_b = _blurred(a), _blurred(b)
    var_a = _blurred(a * a) - mean_a**2
    var_b = _blurred(b * b) - mean_b**2
    covariance = _blurred(a * b) - mean_a * mean_b
    contrast = (2 * covariance + _C2) / (var_a + var_b + _C2)
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return luminance * contrast, contrast


def _blurred(plane: Plane) -> Plane:
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    kernel = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    kernel /= kernel.sum()
    rows = plane.shape[0] - _WINDOW + 1
    down = sum(kernel[i] * plane[i : i + rows] for i in range(_WINDOW))
    columns = plane.shape[1] - _WINDOW + 1
    blurred: Plane = sum(kernel[i] * down[:, i : i + columns] for i in range(_WINDOW))
    return blurred


def _halved(plane: Plane) -> Plane:
    """Mean of 2x2 blocks, after an odd side got a border of zeros that counts, as in the authors' later code."""
    pad = [(side % 2, side % 2) for side in plane.shape[:2]]
    padded = np.pad(plane, [*pad, (0, 0)])
    height, width = (padded.shape[0] // 2) * 2, (padded.shape[1] // 2) * 2
    blocks = padded[:height, :width].reshape(height // 2, 2, width // 2, 2, -1)
    halved: Plane = blocks.mean(axis=(1, 3))
    return halved


_REFERENCE = frozenset({Need.REFERENCE})
COMMON = (
    Metric("common.psnr", "peak signal-to-noise ratio, dB", psnr, needs=_REFERENCE, high=MAX_PSNR),
    Metric("common.ssim", "structural similarity", ssim, needs=_REFERENCE, low=-1.0),
    Metric("common.ms_ssim", "multi-scale structural similarity", ms_ssim, needs=_REFERENCE),
)
