"""Every random generator that a clip may use, so that a checkpoint can save them."""

from collections.abc import Mapping
from typing import Any, Self

import torch


class Randomness:
    """All that a clip may draw from. While open, torch's global generators are the clip's too.

    Pipelines draw from the generator they are given; some schedulers (FlowMatchEuler's stochastic sampling) draw from
    the global ones, which a seed would otherwise not reach.
    """

    def __init__(self, seed: int, device: str) -> None:
        self.generator = torch.Generator("cpu").manual_seed(seed)
        self._seed = seed
        self._on_gpu = device == "cuda"
        self._fork: Any = None

    def __enter__(self) -> Self:
        self._fork = torch.random.fork_rng(devices=[torch.cuda.current_device()] if self._on_gpu else [])
        self._fork.__enter__()
        torch.manual_seed(self._seed)
        return self

    def __exit__(self, *error: object) -> None:
        self._fork.__exit__(*error)

    def states(self) -> dict[str, Any]:
        gpu = {"gpu": torch.cuda.get_rng_state()} if self._on_gpu else {}
        return {"clip": self.generator.get_state(), "cpu": torch.get_rng_state(), **gpu}

    def restore(self, states: Mapping[str, Any]) -> None:
        self.generator.set_state(states["clip"])
        torch.set_rng_state(states["cpu"])
        if self._on_gpu:
            torch.cuda.set_rng_state(states["gpu"])
