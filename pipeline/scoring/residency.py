"""Model families: each is loaded once and scores many clips. This file loads no torch until a family is asked for."""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass, field
from typing import Any

from pipeline.scoring.weight_files import AESTHETIC_HEAD, BPE, CLIP_B32, CLIP_L14, DINO, MUSIQ, RAFT, UMT, VICLIP
from pipeline.scoring.weights import Weights

FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "dino": ("pipeline.scoring.models.dino", (DINO.name,)),
    "clip_b32": ("pipeline.scoring.models.openai_clip", (CLIP_B32.name,)),
    "clip_b32_text": ("pipeline.scoring.models.clip_text", (CLIP_B32.name, BPE.name)),
    "aesthetic": ("pipeline.scoring.models.aesthetic", (CLIP_L14.name, AESTHETIC_HEAD.name)),
    "viclip": ("pipeline.scoring.models.viclip", (VICLIP.name, BPE.name)),
    "umt": ("pipeline.scoring.models.umt", (UMT.name,)),
    "raft": ("pipeline.scoring.models.raft", (RAFT.name,)),
    "musiq": ("pipeline.scoring.models.musiq", (MUSIQ.name,)),
}
"""Each family's module, which has ``load(found, device)``, and its weight files."""


@dataclass
class Models:
    """The families of one process. ``device`` is torch's name for it."""

    weights: Weights = field(default_factory=Weights)
    device: str = "cpu"
    load_seconds: dict[str, float] = field(default_factory=dict)
    _loaded: dict[str, Any] = field(default_factory=dict, repr=False)

    def get(self, family: str) -> Any:
        """The family's model, loaded at the first call.

        Raises:
            RefusedError: code ``eval_weights_missing`` or ``eval_weights_wrong``.
            SettingsError: this machine has no such device.
        """
        if family not in self._loaded:
            module, names = FAMILIES[family]
            importlib.import_module("pipeline.scoring.models.device").require(self.device)
            found = [self.weights.require(name) for name in names]
            started = time.perf_counter()
            self._loaded[family] = importlib.import_module(module).load(found, self.device)
            self.load_seconds[family] = time.perf_counter() - started
        return self._loaded[family]

    def digests(self, family: str) -> dict[str, str]:
        """sha256 of each of the family's files, by official name."""
        names = FAMILIES[family][1]
        return {name: self.weights.digest(self.weights.require(name)) for name in names}

    def unload(self) -> None:
        """Forget every model, so that its memory can be used again."""
        self._loaded.clear()
