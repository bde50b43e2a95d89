"""Train the decoder: ``python -m examples.shapes.train_decoder --vae DIR``. It goes on where DIR's checkpoint ends."""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from examples.shapes.autoencoder import decode_unclamped
from examples.shapes.clips import ClipPool, to_tensor
from examples.shapes.fit_encoder import load, save
from examples.shapes.optimiser import optimisers, set_rate, share_at
from examples.shapes.parallel import Gradients, Loss
from examples.shapes.principal import encode
from examples.shapes.render import render
from examples.shapes.scene import combinations, draw_scene

NOISE = 0.05
"""Added to the latents, in the transformer's units: what it makes is not exact either."""
EVERY = 50
"""Steps between lines of the log."""


def main() -> None:
    """Train, log and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, required=True, help="folder of fit_encoder")
    parser.add_argument("--steps", type=int, default=3000, help="the last step, those of earlier runs included")
    parser.add_argument("--constant", type=float, default=0.5, help="share of this run's steps before the rate falls")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--batch", type=int, default=4, help="cuts of 9 frames in each worker's batch")
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(asked.seed)
    train(asked)


def train(asked: argparse.Namespace) -> None:
    """The loop. Every 50 steps it logs the loss and the PSNR on clips of held-out combinations, and saves."""
    vae = load(asked.vae)
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(False)
    both = optimisers(vae, asked.rate)
    file = asked.vae / "decoder_optimiser.pt"
    saved = torch.load(file, weights_only=True) if file.exists() else None
    first = saved["step"] if saved else 0
    if saved and "optimisers" in saved:  # an unpacked export has none
        for optimiser, state in zip(both, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)
            for group in optimiser.param_groups:
                group["base_lr"] = asked.rate
    check = to_tensor(np.stack(held_out_clips(8)))
    gradients = Gradients(vae, partial(_worker_loss, asked, first), asked.workers)
    started, losses = time.process_time(), []
    for step in range(first, asked.steps):
        set_rate(both, share_at(step - first, asked.steps - first, constant=asked.constant))
        losses.append(gradients.add_up(step))
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for optimiser in both:
            optimiser.step()
        vae.zero_grad(set_to_none=True)
        if (step + 1) % EVERY == 0 or step + 1 == asked.steps:
            row = {"step": step + 1, "loss": round(float(np.mean(losses)), 5), "psnr": psnr(vae, check)}
            losses = []
            with (asked.vae / "decoder.log").open("a") as log:
                print(json.dumps({**row, "cpu_minutes": round((time.process_time() - started) / 60, 2)}), file=log)
            save(vae, asked.vae)
            torch.save({"step": step + 1, "optimisers": [o.state_dict() for o in both]}, file)


def _worker_loss(asked: argparse.Namespace, first: int, worker: int) -> Loss:
    pool = ClipPool(asked.seed + 1000 * first + worker)

    def loss(vae: nn.Module, step: int) -> Tensor:
        assert isinstance(vae, AutoencoderKLWan)
        frames, count = ((9, asked.batch), (17, asked.batch // 2), (9, asked.batch))[step % 3]
        return loss_of(vae, pool.batch(count, frames, 64))

    return loss


def loss_of(vae: AutoencoderKLWan, clips: Tensor) -> Tensor:
    """The error of pixels, weighted towards edges, and of their differences."""
    latents = encode(vae, clips)
    latents = latents + NOISE * torch.randn_like(latents) * torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        decoded = decode_unclamped(vae, latents)
    error = decoded.float() - clips
    with torch.no_grad():
        edges = _differences(clips)
        weight = 1 + 6 * F.max_pool2d(edges.flatten(1, 2), 5, 1, 2).clamp(max=1).view_as(edges)
    pixels = (weight * (error.abs() + error.square()).mean(1, keepdim=True)).mean()
    slopes = sum((error.diff(dim=d).abs().mean() for d in (3, 4)), start=error.new_zeros(()))
    return pixels + slopes


def _differences(clips: Tensor) -> Tensor:
    """How much each pixel differs from its neighbours to the right and below, n × 1 × frames × H × W."""
    right = F.pad(clips.diff(dim=4).abs(), (0, 1))
    below = F.pad(clips.diff(dim=3).abs(), (0, 0, 0, 1))
    return (right + below).mean(1, keepdim=True)


@torch.no_grad()
def psnr(vae: AutoencoderKLWan, clips: Tensor) -> float:
    """In decibels, of clips in -1..1, all frames together."""
    error = (decode_unclamped(vae, encode(vae, clips)).clamp(-1, 1) - clips).square().mean() / 4
    return round(float(-10 * error.log10()), 3)


def held_out_clips(count: int, seed: int = 99) -> list[np.ndarray]:
    """Clips of combinations that training never sees."""
    rng = np.random.default_rng(seed)
    those = combinations(held_out=True)
    return [render(draw_scene(those[rng.integers(len(those))], rng)) for _ in range(count)]


if __name__ == "__main__":
    main()
