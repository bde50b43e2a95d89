"""Encode clips once for the transformer: ``python -m examples.shapes.encode --vae DIR --out FILE``."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from examples.shapes.clips import to_tensor
from examples.shapes.fit_encoder import load, normalise
from examples.shapes.principal import encode
from examples.shapes.render import render
from examples.shapes.scene import Combination, combinations, draw_scene


@dataclass(frozen=True, slots=True)
class Latents:
    """Normalised latents (n × channels × 5 × 4 × 8), and what each clip shows."""

    values: Tensor
    what: list[Combination]
    sizes: list[str]


def main() -> None:
    """Render, encode, save; print the fingerprint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, required=True, help="folder of fit_encoder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--anywhere", action="store_true", help="shapes away from the middle, for given first frames")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    vae = load(asked.vae)
    rng = np.random.default_rng(asked.seed)
    those = combinations(held_out=False)
    order = np.concatenate([rng.permutation(len(those)) for _ in range(asked.count // len(those) + 1)])[: asked.count]
    scenes = [draw_scene(those[index], rng, anywhere=asked.anywhere) for index in order]
    latents = []
    for start in range(0, asked.count, 4):
        clips = to_tensor(np.stack([render(scene) for scene in scenes[start : start + 4]]))
        latents.append(normalise(vae, encode(vae, clips)).half())
    values = torch.cat(latents)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"latents": values, "order": order.tolist(), "sizes": [s.size for s in scenes]}, asked.out)
    print(json.dumps({"clips": asked.count, "seed": asked.seed, "sha256": fingerprint(values)}))  # noqa: T201


def fingerprint(values: Tensor) -> str:
    """Of the latents' bytes."""
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def read_latents(files: list[Path]) -> Latents:
    """All files together."""
    those = combinations(held_out=False)
    parts = [torch.load(file, weights_only=True) for file in files]
    return Latents(
        values=torch.cat([part["latents"].float() for part in parts]),
        what=[those[index] for part in parts for index in part["order"]],
        sizes=[size for part in parts for size in part["sizes"]],
    )


if __name__ == "__main__":
    main()
