"""LPIPS (Zhang et al. 2018), version 0.1 on AlexNet: torchvision's AlexNet and the authors' linear layers, as files.

The distance of two images: the features after each of AlexNet's five rectified convolutions are scaled to unit length
over channels; their squared differences, weighted by channel, are averaged over places and summed over layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.scoring.clip import Frames
from pipeline.scoring.models import pixels, weight_reader
from pipeline.scoring.models.weight_reader import State
from pipeline.scoring.weights import FoundWeights

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of images of -1 to 1, as the authors' code has them."""
_EPSILON = 1e-10
_CONVOLUTIONS = (0, 3, 6, 8, 10)
"""Places in torchvision's ``features``; pooling stands before the second and the third."""
_BATCH = 8


class Lpips(nn.Module):
    """Distances of images, by the widths that the weights have."""

    shift: Tensor
    scale: Tensor

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        first, second, third, fourth, fifth = widths
        self.features = nn.ModuleDict(
            {
                "0": nn.Conv2d(3, first, 11, stride=4, padding=2),
                "3": nn.Conv2d(first, second, 5, padding=2),
                "6": nn.Conv2d(second, third, 3, padding=1),
                "8": nn.Conv2d(third, fourth, 3, padding=1),
                "10": nn.Conv2d(fourth, fifth, 3, padding=1),
            }
        )
        self.pool = nn.MaxPool2d(3, stride=2)
        self.weights = nn.ParameterDict({f"lin{n}": torch.zeros(1, width, 1, 1) for n, width in enumerate(widths)})
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1), persistent=False)

    def layers(self, images: Tensor) -> list[Tensor]:
        """Five feature maps of unit length over channels, of images of -1 to 1, (T, 3, H, W)."""
        hidden = (images - self.shift) / self.scale
        maps = []
        for index in _CONVOLUTIONS:
            if index in (3, 6):
                hidden = self.pool(hidden)
            hidden = self.features[str(index)](hidden).relu()
            maps.append(hidden / (hidden.square().sum(dim=1, keepdim=True).sqrt() + _EPSILON))
        return maps

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances of images of -1 to 1, both (T, 3, H, W), to (T,)."""
        parts = zip(self.layers(a), self.layers(b), self.weights.values(), strict=True)
        return torch.stack([((x - y).square() * weight).sum(dim=1).mean(dim=(1, 2)) for x, y, weight in parts]).sum(0)

    @torch.inference_mode()
    def between(self, frames: Frames, others: Frames) -> list[float]:
        """The distance of each frame to the other of its place, both uint8 (T, H, W, 3)."""
        distances: list[float] = []
        for a, b in zip(pixels.batches(frames, _BATCH), pixels.batches(others, _BATCH), strict=True):
            distances += self(self._images(a), self._images(b)).tolist()
        return distances

    def _images(self, frames: Frames) -> Tensor:
        return pixels.tensor(frames).to(self.shift.device) / 127.5 - 1


def load(weights: Sequence[FoundWeights], device: str) -> Lpips:
    """Load from AlexNet's file and the linear layers'. Raises RefusedError, code ``eval_weights_wrong``."""
    backbone = weight_reader.read_state(weights[0].path)
    convolutions = {key: value for key, value in backbone.items() if key.startswith("features.")}
    widths = [weight_reader.size(backbone, f"features.{index}.weight", weights[0].path) for index in _CONVOLUTIONS]
    model = Lpips(widths)
    linear: State = {}
    for key, value in weight_reader.read_state(weights[1].path).items():
        linear[f"weights.{key.partition('.')[0]}"] = value  # theirs are named lin0.model.1.weight, …
    own = {name: value for name, value in model.state_dict().items() if name.startswith("weights.")}
    weight_reader.fill(model, {**convolutions, **own}, weights[0].path)
    weight_reader.fill(model, {**convolutions, **linear}, weights[1].path)
    return model.eval().to(device)
