"""RAFT, the optical flow network (Teed and Deng 2020), large form: the flow between two frames in 20 steps."""

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from pipeline.scoring.clip import Frames
from pipeline.scoring.models import weight_reader
from pipeline.scoring.weights import FoundWeights

_LEVELS = 4
_RADIUS = 4
_HIDDEN = 128
_STRIDE = 8
STEPS = 20
LEAST_SIDE = _STRIDE * 2**_LEVELS
"""Below 128 pixels the coarsest correlation map is one cell wide, and its coordinates divide by zero."""


CORRELATION_BYTES = 2 * 1024**3
"""Most memory for the likenesses of pairs that are compared at once: one pair of 1280 x 720 takes 1.1 GB."""
_BATCH = 8


class Residual(nn.Module):
    def __init__(self, before: int, width: int, norm: type[nn.Module], stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.norm1, self.norm2 = norm(width), norm(width)
        self.downsample = nn.Sequential(nn.Conv2d(before, width, 1, stride), norm(width)) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(x)))
        inner = F.relu(self.norm2(self.conv2(inner)))
        return F.relu(inner + (x if self.downsample is None else self.downsample(x)))


class Encoder(nn.Module):
    """(N, 3, H, W) to (N, out, H/8, W/8)."""

    def __init__(self, out: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3)
        self.norm1 = norm(64)
        self.layer1 = nn.Sequential(Residual(64, 64, norm, 1), Residual(64, 64, norm, 1))
        self.layer2 = nn.Sequential(Residual(64, 96, norm, 2), Residual(96, 96, norm, 1))
        self.layer3 = nn.Sequential(Residual(96, 128, norm, 2), Residual(128, 128, norm, 1))
        self.conv2 = nn.Conv2d(128, out, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(images)))
        out: Tensor = self.conv2(self.layer3(self.layer2(self.layer1(x))))
        return out


class MotionEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(_LEVELS * (2 * _RADIUS + 1) ** 2, 256, 1)
        self.convc2 = nn.Conv2d(256, 192, 3, padding=1)
        self.convf1 = nn.Conv2d(2, 128, 7, padding=3)
        self.convf2 = nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(256, 126, 3, padding=1)

    def forward(self, flow: Tensor, correlation: Tensor) -> Tensor:
        encoded = F.relu(self.convc2(F.relu(self.convc1(correlation))))
        moved = F.relu(self.convf2(F.relu(self.convf1(flow))))
        return torch.cat([F.relu(self.conv(torch.cat([encoded, moved], 1))), flow], 1)


class SeparableGru(nn.Module):
    """A gated unit whose kernels run along rows first and columns then."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        for gate in "zrq":
            setattr(self, f"conv{gate}1", nn.Conv2d(_HIDDEN + inputs, _HIDDEN, (1, 5), padding=(0, 2)))
            setattr(self, f"conv{gate}2", nn.Conv2d(_HIDDEN + inputs, _HIDDEN, (5, 1), padding=(2, 0)))

    def forward(self, state: Tensor, inputs: Tensor) -> Tensor:
        for way in "12":
            update, reset, candidate = (getattr(self, f"conv{gate}{way}") for gate in "zrq")
            joined = torch.cat([state, inputs], 1)
            z, r = torch.sigmoid(update(joined)), torch.sigmoid(reset(joined))
            new = torch.tanh(candidate(torch.cat([r * state, inputs], 1)))
            state = (1 - z) * state + z * new
        return state


class FlowHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(_HIDDEN, 256, 3, padding=1)
        self.conv2 = nn.Conv2d(256, 2, 3, padding=1)

    def forward(self, state: Tensor) -> Tensor:
        out: Tensor = self.conv2(F.relu(self.conv1(state)))
        return out


class UpdateBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = MotionEncoder()
        self.gru = SeparableGru(2 * _HIDDEN)
        self.flow_head = FlowHead()
        self.mask = nn.Sequential(nn.Conv2d(_HIDDEN, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 9 * _STRIDE**2, 1))

    def forward(self, state: Tensor, context: Tensor, correlation: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        state = self.gru(state, torch.cat([context, self.encoder(flow, correlation)], 1))
        return state, self.flow_head(state)


class RaftNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fnet = Encoder(256, nn.InstanceNorm2d)
        self.cnet = Encoder(2 * _HIDDEN, nn.BatchNorm2d)
        self.update_block = UpdateBlock()

    def features(self, images: Tensor) -> Tensor:
        """Of images (N, 3, H, W), 0..255: what pairs of them are compared by, (N, 256, H/8, W/8)."""
        features: Tensor = self.fnet(2 * (images / 255) - 1)
        return features.float()

    def flow(self, images: Tensor, first: Tensor, second: Tensor, most_bytes: int, steps: int = STEPS) -> Tensor:
        """Flow in pixels, (N, 2, H, W), x before y, from images (N, 3, H, W), 0..255, sides multiples of 8.

        ``first`` and ``second`` are the features of the images and of those that they move to.
        """
        with torch.autocast(images.device.type, enabled=False):  # likenesses are of single precision in any case
            correlation = correlation_of(first, second, most_bytes)
        context = self.cnet(2 * (images / 255) - 1)
        state, inputs = torch.tanh(context[:, :_HIDDEN]), F.relu(context[:, _HIDDEN:])
        start = _grid(first.shape[-2], first.shape[-1], first.device).expand(len(images), -1, -1, -1)
        place = start
        for _ in range(steps):
            state, step = self.update_block(state, inputs, correlation.around(place), place - start)
            place = place + step
        return _upsampled((place - start).float(), 0.25 * self.update_block.mask(state).float())


def _grid(height: int, width: int, device: torch.device) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return torch.stack([x, y])[None].float()


class Correlation(Protocol):
    """Likeness of every place in the first map to places in the second, and in its halvings."""

    def around(self, place: Tensor) -> Tensor:
        """A 9 x 9 window at each level around ``place`` (N, 2, H, W): (N, levels * 81, H, W)."""
        ...


def pyramid_bytes(height: int, width: int) -> int:
    """Bytes of the whole pyramid for a pair of maps of this size: the fourth power of a picture's side."""
    return (height * width) ** 2 * 4 * 4 // 3


def correlation_of(first: Tensor, second: Tensor, most_bytes: int) -> Correlation:
    """The whole pyramid where it takes at most ``most_bytes``; else one that is computed where it is looked at.

    A pair of 3840 x 2160 would need 90 GB. Both give the same numbers but for rounding: averages and interpolations
    of likenesses are likenesses to averaged and interpolated features.
    """
    if len(first) * pyramid_bytes(*first.shape[-2:]) <= most_bytes:
        return _Pyramid(first, second)
    return _Sampled(first, second, most_bytes)


class _Pyramid:
    def __init__(self, first: Tensor, second: Tensor) -> None:
        count, channels, height, width = first.shape
        likeness = first.flatten(2).transpose(1, 2) @ second.flatten(2) / channels**0.5
        levels = [likeness.float().view(count * height * width, 1, height, width)]
        for _ in range(_LEVELS - 1):
            levels.append(F.avg_pool2d(levels[-1], 2, 2))
        self._levels = levels

    def around(self, place: Tensor) -> Tensor:
        count, _, height, width = place.shape
        centre = place.permute(0, 2, 3, 1).reshape(count * height * width, 1, 1, 2)
        window = _window(place)
        levels = []
        for level, likeness in enumerate(self._levels):
            at = _relative(centre / 2**level + window, likeness)
            levels.append(F.grid_sample(likeness, at, align_corners=True).view(count, height, width, -1))
        return torch.cat(levels, -1).permute(0, 3, 1, 2).contiguous()


class _Sampled:
    def __init__(self, first: Tensor, second: Tensor, most_bytes: int) -> None:
        self._first = first.flatten(2) / first.shape[1] ** 0.5
        levels = [second]
        for _ in range(_LEVELS - 1):
            levels.append(F.avg_pool2d(levels[-1], 2, 2))
        self._levels = levels
        sampled_bytes = first.shape[1] * (2 * _RADIUS + 1) ** 2 * 4
        self._places = max(1, most_bytes // (4 * sampled_bytes))
        """Places of the first map that are looked at together: their windows of features are there at once."""

    def around(self, place: Tensor) -> Tensor:
        count, _, height, width = place.shape
        window = _window(place).view(1, -1, 2)
        levels = []
        for level, features in enumerate(self._levels):
            centres = (place / 2**level).flatten(2).transpose(1, 2)  # (N, H * W, 2)
            parts = []
            for start in range(0, height * width, self._places):
                at = _relative(centres[:, start : start + self._places, None] + window, features)
                with torch.autocast(place.device.type, enabled=False):
                    near = F.grid_sample(features, at, align_corners=True)  # (N, 256, places, 81)
                    parts.append(torch.einsum("ncp,ncpw->nwp", self._first[..., start : start + self._places], near))
            levels.append(torch.cat(parts, -1).float())
        return torch.cat(levels, 1).view(count, -1, height, width)


def _window(place: Tensor) -> Tensor:
    """Steps around a place, (9, 9, 2). The first axis moves x: so the weights of the trained network expect it."""
    reach = torch.arange(-_RADIUS, _RADIUS + 1, device=place.device, dtype=place.dtype)
    return torch.stack(torch.meshgrid(reach, reach, indexing="ij"), -1)


def _relative(at: Tensor, among: Tensor) -> Tensor:
    """Places (…, 2), x before y, in ``among`` (N, C, H, W), as ``grid_sample`` wants them: -1..1."""
    longest = torch.tensor([among.shape[-1] - 1, among.shape[-2] - 1], device=at.device)
    return 2 * at / longest - 1


def _upsampled(flow: Tensor, mask: Tensor) -> Tensor:
    """Eight times as large: each fine pixel is a convex mix of its coarse neighbours."""
    count, _, height, width = flow.shape
    share = torch.softmax(mask.view(count, 1, 9, _STRIDE, _STRIDE, height, width), 2)
    around = F.unfold(_STRIDE * flow, 3, padding=1).view(count, 2, 9, 1, 1, height, width)
    fine = (share * around).sum(2)  # (N, 2, 8, 8, H, W): rows and columns inside a coarse pixel
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(count, 2, _STRIDE * height, _STRIDE * width)


class Raft:
    """Flows between a clip's frames. Each frame's features are computed once, however many pairs it is in."""

    def __init__(self, network: RaftNetwork, device: str, most_bytes: int = CORRELATION_BYTES) -> None:
        self._network, self._device, self._most_bytes = network, device, most_bytes

    @torch.inference_mode()
    def flows(self, frames: Frames, pairs: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
        """The flow of each pair of frames (T, H, W, 3), pixels, (2, H', W') on the device.

        H' and W' are H and W padded to multiples of 8, half before and half after, as VBench takes them.
        """
        features: dict[int, Tensor] = {}
        size = self._together(frames)
        for start in range(0, len(pairs), size):
            some = pairs[start : start + size]
            later = {index for pair in pairs[start:] for index in pair}
            features = {index: feature for index, feature in features.items() if index in later}
            for index in dict.fromkeys(index for pair in some for index in pair):
                if index not in features:
                    features[index] = self._network.features(self._image(frames[index]))
            images = torch.cat([self._image(frames[first]) for first, _ in some])
            before, after = (torch.cat([features[pair[side]] for pair in some]) for side in (0, 1))
            yield from self._network.flow(images, before, after, self._most_bytes)

    def _together(self, frames: Frames) -> int:
        """Pairs that are compared at once: one on a CPU, which is no faster with more."""
        if torch.device(self._device).type == "cpu":
            return 1
        sides = (math.ceil(length / _STRIDE) for length in frames.shape[1:3])
        return min(_BATCH, max(1, self._most_bytes // pyramid_bytes(*sides)))

    def _image(self, frame: Frames) -> Tensor:
        """(1, 3, H', W'), 0..255, on the device."""
        image = torch.from_numpy(np.array(frame)).to(self._device).permute(2, 0, 1)[None].float()
        down, across = (-length % _STRIDE for length in frame.shape[:2])
        return F.pad(image, (across // 2, across - across // 2, down // 2, down - down // 2), mode="replicate")


def load(weights: Sequence[FoundWeights], device: str) -> Raft:
    """Load from the released file. Raises RefusedError, code ``eval_weights_wrong``."""
    path = weights[0].path
    state = weight_reader.read_state(path)
    network = RaftNetwork()
    # The released file names these tensors twice.
    twice = tuple(key for key in state if ".norm3." in key)
    weight_reader.fill(network, state, path, ignored=twice)
    return Raft(network.eval().to(device), device)
