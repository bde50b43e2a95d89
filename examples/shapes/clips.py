"""A pool of rendered clips that is renewed a little at each step, for the autoencoder's training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from examples.shapes.render import render
from examples.shapes.scene import FRAMES, HEIGHT, WIDTH, combinations, draw_scene


class ClipPool:
    """Clips of combinations that are not held out."""

    def __init__(self, seed: int, size: int = 192, renewed: int = 1) -> None:
        self._rng = np.random.default_rng(seed)
        self._combinations = combinations(held_out=False)
        self._renewed = renewed
        self._clips = [self._draw() for _ in range(size)]

    def batch(self, count: int, frames: int, width: int) -> Tensor:
        """Random cuts of ``frames`` frames and ``width`` columns, count × 3 × frames × H × width in -1..1."""
        for _ in range(self._renewed):
            self._clips[self._rng.integers(len(self._clips))] = self._draw()
        cuts = []
        for index in self._rng.integers(len(self._clips), size=count):
            first = self._rng.integers(FRAMES - frames + 1)
            left = self._rng.integers(WIDTH - width + 1)
            cuts.append(self._clips[index][first : first + frames, :HEIGHT, left : left + width])
        return to_tensor(np.stack(cuts))

    def _draw(self) -> np.ndarray:
        what = self._combinations[self._rng.integers(len(self._combinations))]
        return render(draw_scene(what, self._rng, anywhere=self._rng.random() < 0.5))


def to_tensor(clips: np.ndarray) -> Tensor:
    """n × frames × H × W × 3 uint8 as n × 3 × frames × H × W in -1..1."""
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1).contiguous()
