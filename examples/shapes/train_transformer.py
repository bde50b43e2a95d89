"""Train transformer and text encoder: ``python -m examples.shapes.train_transformer --latents FILE --out DIR``.

It goes on where DIR's checkpoint ends. Run it with ``--constant 1`` as long as you like, then once more with fewer
steps left and ``--constant 0``, which lets the learning rate fall to 0.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from examples.shapes.captions import caption
from examples.shapes.denoiser import Denoiser, loss_of
from examples.shapes.encode import Latents, read_latents
from examples.shapes.optimiser import optimisers, set_rate, share_at
from examples.shapes.parallel import Gradients, Loss

EMPTY_SHARE = 0.1
"""Captions that are left empty, for guidance."""
GIVEN_EVERY = 4
"""One step in so many has the first frame given, for image to video and continuation."""


def main() -> None:
    """Train, log and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", type=Path, nargs="+", required=True)
    parser.add_argument("--given", type=Path, nargs="*", default=[], help="latents of steps with the first frame given")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000, help="the last step, those of earlier runs included")
    parser.add_argument("--constant", type=float, default=0.5, help="share of this run's steps before the rate falls")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--batch", type=int, default=32, help="clips in each worker's batch")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--ema", type=float, default=0.995)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(asked.seed)
    asked.out.mkdir(parents=True, exist_ok=True)
    train(asked)


def train(asked: argparse.Namespace) -> None:
    """The loop. Every 50 steps it logs the mean loss and saves."""
    model = Denoiser()
    file = asked.out / "transformer.pt"
    saved = torch.load(file, weights_only=True) if file.exists() else None
    first = saved["step"] if saved else 0
    if saved:
        model.load_state_dict(saved["weights"])
    average = {name: value.clone() for name, value in (saved["average"] if saved else model.state_dict()).items()}
    both = optimisers(model, asked.rate)
    if saved and "optimisers" in saved:  # an unpacked export has none
        for optimiser, state in zip(both, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)
            for group in optimiser.param_groups:
                group["base_lr"] = asked.rate
    latents = read_latents(asked.latents)
    given = read_latents(asked.given) if asked.given else latents
    gradients = Gradients(model, partial(_worker_loss, asked, first, latents, given), asked.workers)
    started, losses = time.process_time(), []
    for step in range(first, asked.steps):
        set_rate(both, share_at(step - first, asked.steps - first, constant=asked.constant))
        losses.append(gradients.add_up(step))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in both:
            optimiser.step()
        model.zero_grad(set_to_none=True)
        keep = min(asked.ema, step / (step + 10))
        for name, value in model.state_dict().items():
            average[name].lerp_(value, 1 - keep)
        if (step + 1) % 50 == 0 or step + 1 == asked.steps:
            of_given = [loss for n, loss in enumerate(losses, step + 1 - len(losses)) if n % GIVEN_EVERY == 0]
            row = {"step": step + 1, "loss": _mean(losses), "loss_given": _mean(of_given), "clips": len(latents.what)}
            losses = []
            with (asked.out / "transformer.log").open("a") as log:
                print(json.dumps({**row, "cpu_minutes": round((time.process_time() - started) / 60, 2)}), file=log)
            state = {"weights": model.state_dict(), "average": average, "step": step + 1}
            torch.save({**state, "optimisers": [o.state_dict() for o in both]}, file.with_suffix(".new"))
            file.with_suffix(".new").replace(file)


def _mean(losses: list[float]) -> float | None:
    return round(float(np.mean(losses)), 5) if losses else None


def _worker_loss(asked: argparse.Namespace, first: int, free: Latents, given: Latents, worker: int) -> Loss:
    rng = np.random.default_rng((asked.seed, first, worker))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))

    def loss(model: nn.Module, step: int) -> Tensor:
        is_given = step % GIVEN_EVERY == 0
        latents = given if is_given else free
        chosen = rng.integers(len(latents.what), size=asked.batch)
        captions = [
            "" if rng.random() < EMPTY_SHARE else caption(latents.what[index], latents.sizes[index], rng)
            for index in chosen
        ]
        clean = latents.values[torch.from_numpy(chosen)]
        assert isinstance(model, Denoiser)
        return loss_of(model, clean, captions, generator, given=is_given)

    return loss


if __name__ == "__main__":
    main()
