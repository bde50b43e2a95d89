"""PSNR, SSIM and MS-SSIM of frames with those of a reference, in torch on the device, in single precision.

SSIM's statistics are of pixels less 127.5, which changes no variance and keeps more digits.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from pipeline.scoring.clip import Frames
from pipeline.scoring.models import pixels
from pipeline.scoring.similarity.metrics import MAX_PSNR, SSIM_SCALES, SSIM_WINDOW
from pipeline.scoring.weights import FoundWeights

_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_SIGMA = 1.5
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_MIDDLE = 127.5
_BATCH = 4
assert len(_SCALE_WEIGHTS) == SSIM_SCALES


class Similarity:
    """Frames and a reference's, both uint8 (T, H, W, 3), to one number a frame."""

    def __init__(self, device: str) -> None:
        self._device = device
        offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
        kernel = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
        self._kernel: list[float] = (kernel / kernel.sum()).tolist()

    def psnr(self, frames: Frames, reference: Frames) -> list[float]:
        """dB; ``MAX_PSNR`` for equal frames."""
        values = []
        for a, b in zip(frames, reference, strict=True):  # whole numbers: exact, and faster than any copy to a device
            apart = a.astype(np.int32) - b
            error = float(np.mean(np.square(apart, out=apart)))
            values.append(MAX_PSNR if error == 0 else min(MAX_PSNR, float(10 * np.log10(255.0**2 / error))))
        return values

    @torch.inference_mode()
    def ssim(self, frames: Frames, reference: Frames) -> list[float]:
        """Mean over windows and channels; a side is ``SSIM_WINDOW`` pixels or more."""
        return self._by_batch(frames, reference, lambda a, b: self._means(a, b)[0].mean(dim=1))

    @torch.inference_mode()
    def ms_ssim(self, frames: Frames, reference: Frames) -> list[float]:
        """Per channel a product: of contrast and structure at each scale, and luminance at the last; then the mean."""
        return self._by_batch(frames, reference, self._multi_scale)

    def _by_batch(self, frames: Frames, reference: Frames, measure: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
        values: list[float] = []
        pairs = zip(pixels.batches(frames, _BATCH), pixels.batches(reference, _BATCH), strict=True)
        for a, b in pairs:
            values += measure(self._shifted(a), self._shifted(b)).tolist()
        return values

    def _shifted(self, frames: Frames) -> Tensor:
        return pixels.tensor(frames).to(self._device) - _MIDDLE

    def _means(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """The means over windows of (T, 3, H, W): (T, 3) each. On a CPU one plane at a time, which its cache holds."""
        if a.device.type != "cpu":
            similarity, contrast = self._windows(a, b)
            return similarity.mean(dim=(2, 3)), contrast.mean(dim=(2, 3))
        pairs = [self._windows(x, y) for x, y in zip(a.flatten(0, 1), b.flatten(0, 1), strict=True)]
        means = torch.stack([torch.stack([part.mean() for part in pair]) for pair in pairs])
        return means[:, 0].view(a.shape[:2]), means[:, 1].view(a.shape[:2])

    def _windows(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """SSIM, and its contrast and structure alone, of each valid window: (…, H - 10, W - 10) each."""
        mean_a, mean_b = self._blurred(a), self._blurred(b)
        var_a = self._blurred(a * a) - mean_a**2
        var_b = self._blurred(b * b) - mean_b**2
        covariance = self._blurred(a * b) - mean_a * mean_b
        contrast = (2 * covariance + _C2) / (var_a + var_b + _C2)
        mean_a, mean_b = mean_a + _MIDDLE, mean_b + _MIDDLE
        luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
        return luminance * contrast, contrast

    def _blurred(self, planes: Tensor) -> Tensor:
        """Gaussian means over valid windows of (…, H, W)."""
        return self._moved_and_summed(self._moved_and_summed(planes, -2), -1)

    def _moved_and_summed(self, planes: Tensor, axis: int) -> Tensor:
        """The kernel along one axis; a convolution of one channel takes eight times as long on a CPU."""
        length = planes.shape[axis] - SSIM_WINDOW + 1
        total = planes.narrow(axis, 0, length) * self._kernel[0]
        for offset in range(1, SSIM_WINDOW):
            total.add_(planes.narrow(axis, offset, length), alpha=self._kernel[offset])
        return total

    def _multi_scale(self, a: Tensor, b: Tensor) -> Tensor:
        result = torch.ones(a.shape[:2], device=a.device)
        for scale, weight in enumerate(_SCALE_WEIGHTS):
            similarity, contrast = self._means(a, b)
            value = similarity if scale == SSIM_SCALES - 1 else contrast
            result *= value.clamp(min=0.0) ** weight
            a, b = _halved(a), _halved(b)
        return result.mean(dim=1)


def _halved(planes: Tensor) -> Tensor:
    """Mean of 2x2 blocks, after an odd side got a border of black that counts, as in the authors' later code."""
    pad = [side % 2 for side in planes.shape[2:]]
    return F.avg_pool2d(planes + _MIDDLE, 2, padding=pad) - _MIDDLE


def load(_weights: Sequence[FoundWeights], device: str) -> Similarity:
    """Needs no weights."""
    return Similarity(device)
