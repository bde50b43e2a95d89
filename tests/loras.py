"""LoRA files of the real format, small, with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

_LAYERS = tuple(f"blocks.{block}.attn1.{name}" for block in (0, 1) for name in ("to_q", "to_k", "to_v", "to_out.0"))


def write_lora(path: Path, *, seed: int = 0, width: int = 24, rank: int = 2, strength: float = 0.5) -> Path:
    """For the transformer of ``tiny-wan``, whose layers are ``width`` wide, as trainers with diffusers save one."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in _LAYERS:
        for part, shape in (("lora_A", (rank, width)), ("lora_B", (width, rank))):
            tensors[f"transformer.{layer}.{part}.weight"] = torch.randn(shape, generator=generator) * strength
    save_file(tensors, path)
    return path
