"""MUSIQ (Ke et al. 2021): picture quality from patches of three scales, by a small ResNet stem and a transformer.

Written from the paper and the authors' Apache-2.0 code. Keys and two numerical choices follow the PyTorch weights that
VBench uses: bicubic resizing, and the unbiased deviation in standardised convolutions.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from pipeline.scoring.clip import Clip
from pipeline.scoring.models import pixels, weight_reader
from pipeline.scoring.models.weight_reader import State
from pipeline.scoring.weights import FoundWeights

PATCH = 32
SIDES = (224, 384)
"""Longer sides of the two resized scales; the third is the picture itself."""
GRID = 10
"""Places are hashed to a grid of 10 x 10."""
_BATCH = 8
LONGEST = 512
"""VBench first shrinks a longer picture to this side."""


class StandardConv(nn.Conv2d):
    """A convolution whose filters have mean 0 and deviation 1, padded so that the output is ceil(size / stride)."""

    def forward(self, x: Tensor) -> Tensor:
        filters = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        filters = filters / (filters.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(padded(x, self.kernel_size[0], self.stride[0]), filters, None, self.stride)


class Stem(nn.Module):
    """The bottleneck of the stem: 64 channels in, 256 out."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1, self.gn1 = _conv(before, before, 1), _group(before)
        self.conv2, self.gn2 = _conv(before, before, 3), _group(before)
        self.conv3, self.gn3 = _conv(before, after, 1), _group(after)
        self.conv_proj, self.gn_proj = _conv(before, after, 1), _group(after)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.gn1(self.conv1(x)))
        inner = F.relu(self.gn2(self.conv2(inner)))
        return F.relu(self.gn3(self.conv3(inner)) + self.gn_proj(self.conv_proj(x)))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, tokens: Tensor) -> Tensor:
        parts = [
            part(tokens).view(*tokens.shape[:2], self._heads, -1).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        ]
        attended = F.scaled_dot_product_attention(*parts)
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return out


class Block(nn.Module):
    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.mlp = Mlp(width, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class Table(nn.Module):
    """A learnt vector per index, under the name that the weights have it by."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def forward(self, index: Tensor) -> Tensor:
        table = next(self.parameters())
        return table.reshape(-1, table.shape[-1])[index]


class Encoder(nn.Module):
    def __init__(self, width: int, hidden: int, depth: int, heads: int) -> None:
        super().__init__()
        self.posembed_input = Table("position_emb", (1, GRID * GRID, width))
        self.scaleembed_input = Table("scale_emb", (len(SIDES) + 1, width))
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.encoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.transformer = nn.ModuleDict({f"encoderblock_{i}": Block(width, hidden, heads) for i in range(depth)})

    def forward(self, tokens: Tensor, places: Tensor, scales: Tensor) -> Tensor:
        tokens = tokens + self.posembed_input(places) + self.scaleembed_input(scales)
        tokens = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], dim=1)
        for block in self.transformer.values():
            tokens = block(tokens)
        feature: Tensor = self.encoder_norm(tokens)[:, 0]
        return feature


class MusiqNetwork(nn.Module):
    """Pictures (N, 3, H, W) of 0..1 to scores (N,), about 0..100."""

    def __init__(self, width: int, hidden: int, depth: int, heads: int) -> None:
        super().__init__()
        self.conv_root = StandardConv(3, 64, 7, 2, bias=False)
        self.gn_root = nn.GroupNorm(32, 64, eps=1e-6)
        self.block1 = Stem(64, 256)
        self.embedding = nn.Linear(256 * (PATCH // 4) ** 2, width)
        self.transformer_encoder = Encoder(width, hidden, depth, heads)
        self.head = nn.Linear(width, 1)

    def forward(self, images: Tensor) -> Tensor:
        images = images * 2 - 1
        patches, places, scales = [], [], []
        for number, scale in enumerate((*(_to_side(images, side) for side in SIDES), images)):
            scale_patches = _patches(scale)
            patches.append(scale_patches)
            places.append(_hashed_places(*(math.ceil(side / PATCH) for side in scale.shape[-2:])))
            scales.append(torch.full((scale_patches.shape[1],), number))
        # Unlike the original, no scale is padded to a fixed number of patches: those were masked out anyway.
        tokens = self._tokens(torch.cat(patches, 1))
        feature = self.transformer_encoder(
            tokens, torch.cat(places).to(tokens.device), torch.cat(scales).to(tokens.device)
        )
        score: Tensor = self.head(feature)[:, 0]
        return score

    def _tokens(self, patches: Tensor) -> Tensor:
        """(N, L, 3, 32, 32) to (N, L, width)."""
        x = F.relu(self.gn_root(self.conv_root(patches.flatten(0, 1))))
        x = self.block1(F.max_pool2d(padded(x, 3, 2), 3, 2))
        tokens: Tensor = self.embedding(x.permute(0, 2, 3, 1).flatten(1))  # channels last, as in the original
        return tokens.view(*patches.shape[:2], -1)


def padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros around, so that a window of ``kernel`` fits ceil(size / stride) times; the odd one goes to the end."""
    missing = [max((math.ceil(size / stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:]]
    (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in missing)
    return F.pad(x, (left, right, top, bottom))


def _conv(before: int, after: int, kernel: int) -> StandardConv:
    return StandardConv(before, after, kernel, bias=False)


def _group(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-4)


def _to_side(images: Tensor, side: int) -> Tensor:
    ratio = side / max(images.shape[-2:])
    size = [round(length * ratio) for length in images.shape[-2:]]
    return F.interpolate(images, size=size, mode="bicubic", align_corners=False)


def _patches(images: Tensor) -> Tensor:
    """(N, 3, H, W) to (N, L, 3, 32, 32), row by row."""
    padded_images = padded(images, PATCH, PATCH)
    tiles = padded_images.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # (N, 3, rows, columns, 32, 32)
    return tiles.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)


def _hashed_places(rows: int, columns: int) -> Tensor:
    """The cell of the 10 x 10 grid that each patch falls into, row by row."""
    row, column = (_nearest(count) for count in (rows, columns))
    return (row[:, None] * GRID + column).flatten()


def _nearest(count: int) -> Tensor:
    grid = torch.arange(GRID, dtype=torch.float32)
    return F.interpolate(grid[None, None], size=count, mode="nearest")[0, 0].long()


class Musiq:
    def __init__(self, network: MusiqNetwork, device: str) -> None:
        self._network, self._device = network, device

    @torch.inference_mode()
    def scores(self, clip: Clip) -> list[float]:
        """Quality of each frame, about 0..100. A frame is some 300 patches: on a CPU one at a time is as fast."""
        scores: list[float] = []
        for frames in pixels.batches(clip.frames, 1 if self._device == "cpu" else _BATCH):
            images = pixels.tensor(frames, self._device)
            height, width = images.shape[-2:]
            if max(height, width) > LONGEST:
                ratio = LONGEST / max(height, width)
                images = pixels.resized(images, (int(ratio * height), int(ratio * width)), "bilinear")
            scores += self._network(images / 255).float().tolist()
        return scores


def load(weights: Sequence[FoundWeights], device: str) -> Musiq:
    """Load from the PyTorch weights. Raises RefusedError, code ``eval_weights_wrong``."""
    path = weights[0].path
    state: State = weight_reader.read_state(path, "params")
    width = weight_reader.size(state, "head.weight", path, 1)
    network = MusiqNetwork(
        width,
        weight_reader.size(state, "transformer_encoder.transformer.encoderblock_0.mlp.fc1.weight", path),
        weight_reader.depth(state, "transformer_encoder.transformer.encoderblock_", path),
        weight_reader.heads(width, path),
    )
    weight_reader.fill(network, state, path)
    return Musiq(network.eval().to(device), device)
