"""Fit the encoder: ``python -m examples.shapes.fit_encoder --out DIR``. It takes half a minute."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from examples.shapes.autoencoder import build_autoencoder
from examples.shapes.clips import to_tensor
from examples.shapes.principal import encode, fit_encoder
from examples.shapes.render import render
from examples.shapes.scene import combinations, draw_scene

WHITENING = 0.7
"""How far the components are brought to one variance: 0 leaves them, 1 makes them equal."""


def main() -> None:
    """Render, fit, save ``vae.pt``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=17)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(asked.seed)
    vae = fitted(asked.clips, asked.seed)
    asked.out.mkdir(parents=True, exist_ok=True)
    save(vae, asked.out)


def fitted(clips: int, seed: int) -> AutoencoderKLWan:
    """The autoencoder with its encoder fitted, its latents' statistics in its configuration, its decoder random."""
    rng = np.random.default_rng(seed)
    those = combinations(held_out=False)
    chosen = [those[index] for index in rng.permutation(len(those))[:clips]]
    shown = to_tensor(np.stack([render(draw_scene(what, rng, anywhere=n % 2 == 1)) for n, what in enumerate(chosen)]))
    vae = build_autoencoder()
    fit_encoder(vae, shown)
    latents = torch.cat([encode(vae, some) for some in shown.split(8)])
    scale = latents.std(dim=(0, 2, 3, 4)).pow(WHITENING)
    scale = scale * (latents / scale.view(1, -1, 1, 1, 1)).square().mean().sqrt()
    mean = latents.mean(dim=(0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=scale.tolist())
    with torch.no_grad():  # the decoder begins with components of like size
        vae.post_quant_conv.weight.copy_(torch.diag(1 / scale).view_as(vae.post_quant_conv.weight))
        vae.post_quant_conv.bias.copy_(-mean / scale)
    return vae


def save(vae: AutoencoderKLWan, folder: Path) -> None:
    """Weights and statistics, in one file that replaces the one before."""
    state = {"weights": vae.state_dict(), "mean": vae.config.latents_mean, "std": vae.config.latents_std}
    torch.save(state, folder / "vae.new")
    (folder / "vae.new").replace(folder / "vae.pt")


def load(folder: Path) -> AutoencoderKLWan:
    """What ``save`` wrote."""
    saved = torch.load(folder / "vae.pt", weights_only=True)
    vae = build_autoencoder(latents_mean=saved["mean"], latents_std=saved["std"])
    vae.load_state_dict(saved["weights"])
    return vae


def normalise(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """As the pipelines do before the transformer sees them."""
    mean, std = (torch.tensor(x).view(1, -1, 1, 1, 1) for x in (vae.config.latents_mean, vae.config.latents_std))
    return (latents - mean) / std


if __name__ == "__main__":
    main()
