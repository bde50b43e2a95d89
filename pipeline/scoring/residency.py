"""Model families: each is loaded once and scores many clips. This file loads no torch until a family is asked for."""

import importlib
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.errors import RefusedError, VgenError
from pipeline.scoring.weight_files import (
    AESTHETIC_HEAD,
    ALEXNET,
    BPE,
    CLAP,
    CLIP_B32,
    CLIP_L14,
    DINO,
    DREAMSIM_CLIP,
    DREAMSIM_LORA,
    DREAMSIM_OPEN_CLIP,
    LPIPS_LINEAR,
    MUSIQ,
    RAFT,
    UMT,
    VICLIP,
    WHISPER,
)
from pipeline.scoring.weights import FoundWeights, Weights


@dataclass(frozen=True, slots=True)
class Family:
    """A model: its module, which has ``load(found, device)``, and the files that this takes.

    With a ``base`` it is built on that family's loaded model, and ``load`` takes it as a third argument.
    """

    module: str
    files: tuple[str, ...]
    base: str | None = None


FAMILIES: dict[str, Family] = {
    "dino": Family("dino", (DINO.name,)),
    "clip_b32": Family("openai_clip", (CLIP_B32.name,)),
    "clip_b32_text": Family("clip_text", (BPE.name,), base="clip_b32"),
    "aesthetic": Family("aesthetic", (CLIP_L14.name, AESTHETIC_HEAD.name)),
    "viclip": Family("viclip", (VICLIP.name, BPE.name)),
    "umt": Family("umt", (UMT.name,)),
    "raft": Family("raft", (RAFT.name,)),
    "musiq": Family("musiq", (MUSIQ.name,)),
    "similarity": Family("similarity", ()),
    "dreamsim": Family("dreamsim", (DINO.name, DREAMSIM_CLIP.name, DREAMSIM_OPEN_CLIP.name, DREAMSIM_LORA.name)),
    "clap": Family("sound.clap", (CLAP.name,)),
    "whisper": Family("sound.whisper", (WHISPER.name,)),
    "lpips": Family("lpips", (ALEXNET.name, LPIPS_LINEAR.name)),
}


def weights_of(family: str) -> tuple[str, ...]:
    """Official names of all files that a family needs, those of its base first."""
    family_files = FAMILIES[family]
    return (*(weights_of(family_files.base) if family_files.base else ()), *family_files.files)


Precision = Literal["float32", "bfloat16", "float16"]
_LOADING = threading.Lock()
"""Loaders of models change what is global for a moment: one loads at a time."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, of the machine or a device; torch's error is known by name: no torch here."""
    return type(error).__name__ in ("MemoryError", "OutOfMemoryError")


@dataclass
class Models:
    """The families of one device. ``device`` is torch's name for it; ``precision`` that of matrix products there."""

    weights: Weights = field(default_factory=Weights)
    device: str = "cpu"
    precision: Precision = "float32"
    load_seconds: dict[str, float] = field(default_factory=dict)
    _loaded: dict[str, Any] = field(default_factory=dict, repr=False)
    _broken: dict[str, RefusedError] = field(default_factory=dict, repr=False)
    """Families whose files are no weights of theirs: they are read once, and not again for each clip."""

    def get(self, family: str) -> Any:
        """The family's model, loaded at the first call.

        Raises:
            RefusedError: code ``eval_weights_missing`` or ``eval_weights_wrong``.
            SettingsError: this machine has no such device.
        """
        if family in self._broken:
            raise self._broken[family]
        if family not in self._loaded:
            definition = FAMILIES[family]
            importlib.import_module("pipeline.scoring.models.device").require(self.device)
            weights = [self.weights.require(name) for name in definition.files]
            base = () if definition.base is None else (self.get(definition.base),)
            started = time.perf_counter()
            module = importlib.import_module(f"pipeline.scoring.models.{definition.module}")
            try:
                with _LOADING:
                    self._loaded[family] = module.load(weights, self.device, *base)
            except RefusedError as error:
                self._broken[family] = error
                raise
            except Exception as error:
                if isinstance(error, VgenError) or is_out_of_memory(error):
                    raise
                self._broken[family] = _wrong(weights, error)
                raise self._broken[family] from error
            self.load_seconds[family] = time.perf_counter() - started
        return self._loaded[family]

    def computing(self, family: str | None) -> AbstractContextManager[Any]:
        """The context that a family's metrics compute in: torch's autocast, in any precision but single."""
        if family is None or self.precision == "float32":
            return nullcontext()
        torch = importlib.import_module("torch")
        kind = self.device.partition(":")[0]
        context: AbstractContextManager[Any] = torch.autocast(kind, dtype=getattr(torch, self.precision))
        return context

    def digests(self, family: str) -> dict[str, str]:
        """sha256 of each of the family's files, by official name."""
        return {name: self.weights.digest(self.weights.require(name)) for name in weights_of(family)}

    def unload(self) -> None:
        """Forget every model, so that its memory can be used again."""
        self._loaded.clear()
        self._broken.clear()


def _wrong(weights: Sequence[FoundWeights], error: Exception) -> RefusedError:
    """What a library says of files that are damaged in a way that no loader here looks for."""
    first = (str(error).strip() or "no message").splitlines()[0]
    paths = ", ".join(str(found.path) for found in weights)
    return RefusedError(f"weights {paths}: {type(error).__name__}: {first:.300}", code="eval_weights_wrong")
