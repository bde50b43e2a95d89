"""A token of the untrained transformer knows its place, though it holds noise only."""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812 - its usual name

from examples.shapes.autoencoder import LATENT_CHANNELS
from examples.shapes.denoiser import Denoiser

FRAMES, ROWS, COLUMNS = 5, 2, 4


def test_the_second_block_knows_frame_row_and_column_of_noise() -> None:
    torch.manual_seed(3)
    model = Denoiser()
    outputs: list[torch.Tensor] = []
    model.transformer.blocks[1].register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    with torch.no_grad():
        for _ in range(4):
            noise = torch.randn(32, LATENT_CHANNELS, FRAMES, 2 * ROWS, 2 * COLUMNS)
            model(noise, torch.full((32,), 999.0), ["a red circle moves right"] * 32)
    hidden = torch.cat(outputs).flatten(0, 1)
    hidden = F.pad(hidden, (0, 1), value=1.0)
    places = torch.meshgrid(torch.arange(FRAMES), torch.arange(ROWS), torch.arange(COLUMNS), indexing="ij")
    fitted = len(hidden) * 3 // 4
    for place, ends in zip(places, (FRAMES, ROWS, COLUMNS), strict=True):
        truth = place.flatten().repeat(len(hidden) // place.numel())
        weights = torch.linalg.lstsq(hidden[:fitted], F.one_hot(truth, ends).float()[:fitted]).solution
        named = (hidden[fitted:] @ weights).argmax(1)
        assert (named == truth[fitted:]).float().mean() > 0.9
