"""Moves a pipeline's weights between a device and host memory."""

from collections.abc import Iterator
from typing import Any

import torch


def move(pipe: Any, device: str) -> None:
    """Every model of the pipeline to the device; types stay as they are."""
    for model in _models(pipe):
        model.to(device)


def weight_bytes(pipe: Any) -> int:
    """Bytes of all weights and buffers; what models share counts once."""
    storages = {
        tensor.data_ptr() or id(tensor): tensor.nbytes
        for model in _models(pipe)
        for tensor in (*model.parameters(), *model.buffers())
    }
    return sum(storages.values())


def _models(pipe: Any) -> Iterator[torch.nn.Module]:
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            yield part
