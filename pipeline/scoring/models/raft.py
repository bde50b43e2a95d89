"""RAFT, the optical flow network (Teed and Deng 2020), large form: the flow between two frames in 20 steps."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from pipeline.scoring.clip import Frames
from pipeline.scoring.models import pixels, weight_reader
from pipeline.scoring.weights import FoundWeights

_LEVELS = 4
_RADIUS = 4
_HIDDEN = 128
_STRIDE = 8
STEPS = 20
LEAST_SIDE = _STRIDE * 2**_LEVELS
"""Below 128 pixels the coarsest correlation map is one cell wide, and its coordinates divide by zero."""


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

    def flow(self, first: Tensor, second: Tensor, steps: int = STEPS) -> Tensor:
        """Images (1, 3, H, W), 0..255, sides multiples of 8; flow in pixels, (1, 2, H, W), x before y."""
        first, second = 2 * (first / 255) - 1, 2 * (second / 255) - 1
        features = self.fnet(torch.cat([first, second]))
        pyramid = _pyramid(features[:1], features[1:])
        context = self.cnet(first)
        state, inputs = torch.tanh(context[:, :_HIDDEN]), F.relu(context[:, _HIDDEN:])
        start = _grid(features.shape[-2], features.shape[-1], first.device)
        place = start
        for _ in range(steps):
            state, step = self.update_block(state, inputs, _look_up(pyramid, place), place - start)
            place = place + step
        return _upsampled(place - start, 0.25 * self.update_block.mask(state))


def _grid(height: int, width: int, device: torch.device) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return torch.stack([x, y])[None].float()


def _pyramid(first: Tensor, second: Tensor) -> list[Tensor]:
    """Likeness of every place in the first map to every place in the second, and to their halvings."""
    channels, height, width = first.shape[1:]
    likeness = first.flatten(2).transpose(1, 2) @ second.flatten(2) / channels**0.5
    levels = [likeness.view(height * width, 1, height, width)]
    for _ in range(_LEVELS - 1):
        levels.append(F.avg_pool2d(levels[-1], 2, 2))
    return levels


def _look_up(pyramid: list[Tensor], place: Tensor) -> Tensor:
    """Likeness around each place, a 9x9 window at each level: (1, levels * 81, H, W)."""
    height, width = place.shape[-2:]
    centre = place.permute(0, 2, 3, 1).reshape(height * width, 1, 1, 2)
    reach = torch.arange(-_RADIUS, _RADIUS + 1, device=place.device, dtype=place.dtype)
    # The first axis of a window moves x: so the weights of the trained network expect it.
    window = torch.stack(torch.meshgrid(reach, reach, indexing="ij"), -1)
    levels = []
    for level, likeness in enumerate(pyramid):
        longest = torch.tensor([likeness.shape[-1] - 1, likeness.shape[-2] - 1], device=place.device)
        at = 2 * (centre / 2**level + window) / longest - 1
        levels.append(F.grid_sample(likeness, at, align_corners=True).view(1, height, width, -1))
    return torch.cat(levels, -1).permute(0, 3, 1, 2).contiguous()


def _upsampled(flow: Tensor, mask: Tensor) -> Tensor:
    """Eight times as large: each fine pixel is a convex mix of its coarse neighbours."""
    height, width = flow.shape[-2:]
    share = torch.softmax(mask.view(9, _STRIDE, _STRIDE, height, width), 0)
    around = F.unfold(_STRIDE * flow, 3, padding=1).view(2, 9, 1, 1, height, width)
    fine = (share * around).sum(1)  # (2, 8, 8, H, W): rows and columns inside a coarse pixel
    return fine.permute(0, 3, 1, 4, 2).reshape(1, 2, _STRIDE * height, _STRIDE * width)


class Raft:
    def __init__(self, network: RaftNetwork, device: str) -> None:
        self._network, self._device = network, device

    @torch.inference_mode()
    def speeds(self, first: Frames, second: Frames) -> Tensor:
        """Length of the flow, pixels, of two frames (H, W, 3); of the padded picture, as VBench takes it."""
        pair = pixels.tensor(torch.stack([torch.from_numpy(first.copy()), torch.from_numpy(second.copy())]).numpy())
        height, width = pair.shape[-2:]
        down, across = -height % _STRIDE, -width % _STRIDE
        padded = F.pad(pair, (across // 2, across - across // 2, down // 2, down - down // 2), mode="replicate")
        images = padded.to(self._device)
        flow = self._network.flow(images[:1], images[1:])[0].cpu()
        return flow.square().sum(0).sqrt()


def load(weights: Sequence[FoundWeights], device: str) -> Raft:
    """Load from the released file. Raises RefusedError, code ``eval_weights_wrong``."""
    path = weights[0].path
    state = weight_reader.read_state(path)
    network = RaftNetwork()
    # The released file names these tensors twice.
    twice = tuple(key for key in state if ".norm3." in key)
    weight_reader.fill(network, state, path, ignored=twice)
    return Raft(network.eval().to(device), device)
