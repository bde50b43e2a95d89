"""UMT's Kinetics-400 classifier (Li et al. 2023): which of 400 actions a clip shows."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from pipeline.scoring.clip import Clip
from pipeline.scoring.kinetics import KINETICS_400
from pipeline.scoring.models import pixels, weight_reader
from pipeline.scoring.models.vit import Block
from pipeline.scoring.weights import FoundWeights

FRAMES = 16
_TRAINED_FRAMES = 8
"""UMT was trained with 8 time steps; its position table is stretched from there."""
_GRID, _PATCH = 14, 16


class TubeEmbedding(nn.Module):
    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, width, kernel_size=(1, patch, patch), stride=(1, patch, patch))

    def forward(self, video: Tensor) -> Tensor:
        out: Tensor = self.proj(video)
        return out


class UmtTransformer(nn.Module):
    """(1, 3, 16, 224, 224) to logits (1, classes)."""

    def __init__(self, width: int, depth: int, hidden: int, heads: int, patch: int, classes: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(position_table(width))
        self.patch_embed = TubeEmbedding(width, patch)
        self.blocks = nn.ModuleList(Block(width, hidden, heads, key_bias=False) for _ in range(depth))
        self.fc_norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, video: Tensor) -> Tensor:
        tokens = self.patch_embed(video).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        logits: Tensor = self.head(self.fc_norm(tokens.mean(1)))
        return logits


def position_table(width: int) -> Tensor:
    """Sines and cosines of 8 x 14 x 14 places, stretched linearly to 16 times: (1, 16 * 196, width)."""
    places = np.arange(_TRAINED_FRAMES * _GRID * _GRID, dtype=np.float64)[:, None]
    angles = places / np.power(10000, 2 * (np.arange(width) // 2) / width)
    angles[:, 0::2], angles[:, 1::2] = np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])
    table = torch.tensor(angles, dtype=torch.float32).view(_TRAINED_FRAMES, -1)
    stretched = F.interpolate(table.t()[None], size=FRAMES, mode="linear")[0].t()
    return stretched.reshape(1, FRAMES * _GRID * _GRID, width)


class Umt:
    def __init__(self, model: UmtTransformer, device: str) -> None:
        self._model, self._device = model, device

    @torch.inference_mode()
    def top(self, clip: Clip, count: int = 5) -> list[tuple[int, float]]:
        """The likeliest classes and their probabilities: a sigmoid, although it was trained with a softmax."""
        indices, places = np.unique(pixels.middle(len(clip.frames), FRAMES), return_inverse=True)
        prepared = pixels.for_umt(clip.frames[indices])[
            torch.from_numpy(places)
        ]  # a short clip's frames come repeatedly
        video = prepared.transpose(0, 1)[None].to(self._device)
        best, order = torch.topk(torch.sigmoid(self._model(video).float()).cpu(), count, dim=1)
        return list(zip(order[0].tolist(), best[0].tolist(), strict=True))


def load(weights: Sequence[FoundWeights], device: str) -> Umt:
    """Load from the released file. Raises RefusedError, code ``eval_weights_wrong``."""
    path = weights[0].path
    state = weight_reader.read_state(path, "model", "module")
    width = weight_reader.size(state, "head.weight", path, 1)
    model = UmtTransformer(
        width,
        weight_reader.depth(state, "blocks.", path),
        weight_reader.size(state, "blocks.0.mlp.fc1.weight", path),
        weight_reader.heads(width, path),
        weight_reader.exactly(_PATCH, state, "patch_embed.proj.weight", path, 3),
        weight_reader.exactly(len(KINETICS_400), state, "head.weight", path),
    )
    state.setdefault("pos_embed", model.pos_embed.detach())
    # The official code takes what fits and leaves the rest; what is missing is refused here all the same.
    ignored = tuple(key for key in state if key not in model.state_dict())
    weight_reader.fill(model, state, path, ignored=ignored)
    return Umt(model.eval().to(device), device)
