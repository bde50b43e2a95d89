"""DreamSim (Fu et al. 2023): likeness of pictures as people see it, by an ensemble of DINO, CLIP and OpenCLIP ViT-B/16.

All three are in the form of DINO's transformer, as the authors' files have them. A LoRA was trained on the joint
matrices of query, key and value of all three; it is added to them when the files are loaded. The feature of a picture
is the class token of DINO's last block, before its last norm, and the two projected embeddings of CLIP's towers, less
their mean, of unit length.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from PIL.Image import Image
from torch import Tensor, nn

from pipeline.scoring.clip import Clip
from pipeline.scoring.models import dino, pixels, weight_reader
from pipeline.scoring.models.dino import DinoTransformer, Sizes
from pipeline.scoring.models.vit import Activation, quick_gelu
from pipeline.scoring.models.weight_reader import State
from pipeline.scoring.weights import FoundWeights

ADAPTER_CONFIG = "adapter_config.json"
"""What stands beside the LoRA's tensors and says by how much they count."""
_PREFIX = "base_model.model.extractor_list."
_PLAIN = {"peft_type": "LORA", "bias": "none", "target_modules": ["qkv"]}
_OFF = ("use_dora", "use_rslora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save")
"""Kinds of adapter that are computed otherwise: they are refused."""


class ClipTower(DinoTransformer):
    """The picture side of a CLIP in DINO's form: a norm before the blocks, a projection after the last one."""

    def __init__(self, sizes: Sizes, embedding: int, activation: Activation) -> None:
        super().__init__(sizes, 1e-5, activation)
        self.pos_drop = nn.LayerNorm(sizes.width, eps=1e-5)
        self.proj = nn.Parameter(torch.zeros(sizes.width, embedding))

    def forward(self, images: Tensor) -> Tensor:
        """The embedding, (N, embedding), of pictures (N, 3, H, W), normalised."""
        return super().forward(images) @ self.proj


class DreamSim:
    """Features of clips and pictures."""

    def __init__(self, transformer: DinoTransformer, towers: Sequence[ClipTower], device: str) -> None:
        self._dino, self._towers, self._device = transformer, towers, device

    @torch.inference_mode()
    def features(self, clip: Clip) -> Tensor:
        """Unit length, (frames, width), on the CPU."""
        parts = [self._embedded(pixels.for_dreamsim(part, self._device)) for part in pixels.batches(clip.frames)]
        return torch.cat(parts)

    @torch.inference_mode()
    def picture(self, picture: Image) -> Tensor:
        """The feature of a picture, (1, width), on the CPU; it is shrunk by PIL, as VBench-I2V does."""
        return self._embedded(pixels.picture_for_dreamsim(picture).to(self._device))

    def _embedded(self, images: Tensor) -> Tensor:
        for_clip = pixels.normalised(images, pixels.CLIP)
        parts = [self._dino.tokens(pixels.normalised(images, pixels.IMAGENET))[:, 0]]
        parts += [tower(for_clip) for tower in self._towers]
        joined = torch.cat([part.float() for part in parts], dim=-1).cpu()
        return F.normalize(joined - joined.mean(dim=-1, keepdim=True), dim=-1)


def load(weights: Sequence[FoundWeights], device: str) -> DreamSim:
    """Load from DINO's file, the files of CLIP and OpenCLIP in DINO's form, and the LoRA's.

    Raises:
        RefusedError: code ``eval_weights_wrong``.
    """
    transformer = dino.load_transformer(weights[0])
    towers = [_tower(weights[1], quick_gelu), _tower(weights[2], F.gelu)]
    _add_lora([transformer, *towers], weights[3].path)
    return DreamSim(transformer.to(device), [tower.to(device) for tower in towers], device)


def _tower(weights: FoundWeights, activation: Activation) -> ClipTower:
    state = weight_reader.read_state(weights.path, "state_dict")
    tower = ClipTower(dino.sizes_of(state, weights), weight_reader.size(state, "proj", weights.path, 1), activation)
    weight_reader.fill(tower, state, weights.path)
    return tower.eval()


@torch.no_grad()
def _add_lora(models: Sequence[DinoTransformer], path: Path) -> None:
    """Add ``lora_alpha / r * B A`` to each model's matrices; the file has them all, and nothing else."""
    state = weight_reader.read_state(path)
    rank, factor = _rank_and_factor(path.with_name(ADAPTER_CONFIG), path)
    for number, model in enumerate(models):
        for index in range(len(model.blocks)):
            at = f"{_PREFIX}{number}.model.blocks.{index}.attn.qkv.lora_"
            matrix = model.get_parameter(f"blocks.{index}.attn.qkv.weight")
            a = _taken(state, f"{at}A.weight", (rank, matrix.shape[1]), path)
            b = _taken(state, f"{at}B.weight", (matrix.shape[0], rank), path)
            matrix.add_(b @ a, alpha=factor)
    if state:
        raise weight_reader.wrong(path, f"has the unknown {next(iter(state))} ({len(state)} tensors)")


def _taken(state: State, key: str, shape: tuple[int, int], path: Path) -> Tensor:
    for axis, length in enumerate(shape):
        weight_reader.exactly(length, state, key, path, axis)
    return state.pop(key)


def _rank_and_factor(config_path: Path, path: Path) -> tuple[int, float]:
    config = weight_reader.config_beside(path, config_path.name)
    if config is None:
        raise weight_reader.wrong(path, f"lacks {config_path.name} beside it, which says by how much the LoRA counts")
    for name, wanted in _PLAIN.items():
        if config.get(name) != wanted:
            raise _not_plain(path, name, config.get(name), f"; DreamSim has {wanted!r}")
    for name in _OFF:
        if config.get(name):
            raise _not_plain(path, name, config[name], ", which is another kind of adapter than DreamSim's")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise _not_plain(path, "r", rank, " is not a whole number above 0")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise _not_plain(path, "lora_alpha", alpha, " is not a finite number")
    return rank, alpha / rank


def _not_plain(path: Path, name: str, value: Any, rule: str) -> Exception:
    return weight_reader.wrong(path, f"{ADAPTER_CONFIG}: {name} {json.dumps(value):.60}{rule}")
