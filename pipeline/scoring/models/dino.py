"""DINO's vision transformer (Caron et al. 2021): one unit feature per frame.

An own module and not transformers' ``ViTModel``: frames are not square, and DINO stretches its position grid with the
scale (n + 0.1) / grid, where transformers stretches to a size; scores then differ by up to 2e-3.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from PIL.Image import Image
from torch import Tensor, nn

from pipeline.scoring.clip import Clip, Frames
from pipeline.scoring.models import pixels, weight_reader
from pipeline.scoring.models.vit import Activation, Block
from pipeline.scoring.models.weight_reader import State
from pipeline.scoring.weights import FoundWeights


class PatchEmbedding(nn.Module):
    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.proj(images)
        return out


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a transformer, by which it is built."""

    width: int
    depth: int
    hidden: int
    heads: int
    patch: int
    positions: int
    """Those of the patches, and the class token's."""


class DinoTransformer(nn.Module):
    """(N, 3, H, W), normalised, to the class token's feature (N, width)."""

    def __init__(self, sizes: Sizes, eps: float = 1e-6, activation: Activation = F.gelu) -> None:
        super().__init__()
        width = sizes.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, sizes.positions, width))
        self.patch_embed = PatchEmbedding(width, sizes.patch)
        self.pos_drop: nn.Module = nn.Identity()  # a norm in CLIP's towers, under this name
        self.blocks = nn.ModuleList(
            Block(width, sizes.hidden, sizes.heads, key_bias=True, eps=eps, activation=activation)
            for _ in range(sizes.depth)
        )
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, images: Tensor) -> Tensor:
        feature: Tensor = self.norm(self.tokens(images)[:, 0])
        return feature

    def tokens(self, images: Tensor) -> Tensor:
        """What the last block gives of the class token and each patch, before the last norm, (N, positions, width)."""
        patches = self.patch_embed(images)
        positions = self._positions(images, (patches.shape[-2], patches.shape[-1]))
        joined = torch.cat([self.cls_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        tokens: Tensor = self.pos_drop(joined + positions)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def _positions(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Only a square picture of the trained size keeps the grid; 0.1 guards against a size one too small."""
        count = self.pos_embed.shape[1] - 1
        if grid[0] * grid[1] == count and images.shape[-1] == images.shape[-2]:
            return self.pos_embed
        side = math.isqrt(count)
        trained = self.pos_embed[:, 1:].view(1, side, side, -1).permute(0, 3, 1, 2)
        scale = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
        stretched = F.interpolate(trained, scale_factor=scale, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], stretched.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


class Dino:
    """Features of clips."""

    def __init__(self, model: DinoTransformer, device: str) -> None:
        self._model, self._device = model, device

    @torch.inference_mode()
    def features(self, clip: Clip, prepare: Callable[[Frames, str], Tensor] = pixels.for_dino) -> Tensor:
        """Unit length, (frames, width), on the CPU."""
        parts = [self._model(prepare(part, self._device)) for part in pixels.batches(clip.frames)]
        return F.normalize(torch.cat(parts).float().cpu(), dim=-1)

    def middles(self, clip: Clip) -> Tensor:
        """The same of each frame's middle square, as VBench-I2V prepares it."""
        return self.features(clip, pixels.middle_for_dino)

    @torch.inference_mode()
    def picture(self, picture: Image) -> Tensor:
        """The unit feature of a picture's middle square, (1, width), on the CPU; PIL shrinks it, as in VBench-I2V."""
        feature = self._model(pixels.picture_for_dino(picture).to(self._device))
        return F.normalize(feature.float().cpu(), dim=-1)


def load(weights: Sequence[FoundWeights], device: str) -> Dino:
    """Load from DINO's own file or transformers' copy. Raises RefusedError, code ``eval_weights_wrong``."""
    return Dino(load_transformer(weights[0]).to(device), device)


def load_transformer(weights: FoundWeights) -> DinoTransformer:
    """DINO's transformer on the CPU. Raises as ``load``."""
    state = weight_reader.read_state(weights.path)
    if weights.hub:
        state = _from_hub(state)
    model = DinoTransformer(sizes_of(state, weights))
    weight_reader.fill(model, state, weights.path)
    return model.eval()


def sizes_of(state: State, weights: FoundWeights) -> Sizes:
    """The sizes that the tensors have. Raises as ``load``."""
    path = weights.path
    width = weight_reader.size(state, "cls_token", path, 2)
    return Sizes(
        width,
        weight_reader.depth(state, "blocks.", path),
        weight_reader.size(state, "blocks.0.mlp.fc1.weight", path),
        weight_reader.heads(width, path, hub=weights.hub),
        weight_reader.size(state, "patch_embed.proj.weight", path, 2),
        weight_reader.square(weight_reader.size(state, "pos_embed", path, 1) - 1, "pos_embed", path) ** 2 + 1,
    )


_HUB_NAMES = (
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("encoder.layer.", "blocks."),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("attention.output.dense", "attn.proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    ("layernorm.", "norm."),
)


def _from_hub(state: State) -> State:
    """DINO's keys, from those of transformers' checkpoint; its pooler is not part of DINO."""
    renamed: State = {}
    for key, value in state.items():
        for old, new in _HUB_NAMES:
            key = key.replace(old, new)  # noqa: PLW2901 - renamed step by step
        renamed[key] = value
    for key in [key for key in renamed if ".attention.attention.query." in key]:
        parts = [renamed.pop(key.replace("query", part)) for part in ("query", "key", "value")]
        renamed[key.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
    return {key.removeprefix("vit."): value for key, value in renamed.items() if not key.startswith("pooler.")}
