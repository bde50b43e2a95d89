"""LoRAs of a loaded pipeline: on for the clip that names them, off for every other, and evicted by last use.

They stay adapters beside the weights and are never fused into them, so a clip without any is made by the very same
weights as before: disabled adapters leave out their part of each layer's sum.
"""

import contextlib
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import lora_base
from diffusers.utils.peft_utils import delete_adapter_layers

from pipeline.errors import OutOfMemoryError, RefusedError, RetryableError
from pipeline.models.lora_files import safe_to_load
from pipeline.models.strict_loading import named
from pipeline.spec import LoraRef


class Loras:
    """The LoRAs of one loaded pipeline. Unused ones go when all take more than ``max_bytes``, least used first."""

    def __init__(self, pipe: Any, max_bytes: int) -> None:
        self._pipe = pipe
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, int] = OrderedDict()
        """Bytes by the adapter's name, the last used last."""
        self._selected: tuple[tuple[str, float], ...] = ()
        """Those of the last clip, by adapter and scale."""
        self._active: tuple[tuple[str, float], ...] | None = ()
        """What acts now; None where that is for the library to say: it makes others active as they come and go."""

    def use(self, refs: Sequence[LoraRef], paths: Sequence[Path]) -> None:
        """Have exactly these act on the next clip.

        Raises:
            RefusedError: codes ``lora_unsupported`` (the pipeline takes none) and ``lora_unusable`` (not this model's).
            RetryableError: code ``input_gone``; a file has left this host's cache.
            OutOfMemoryError: they do not fit.
        """
        adapters = tuple((adapter_name(ref), ref.scale) for ref in refs)
        if refs and not hasattr(self._pipe, "load_lora_weights"):
            raise RefusedError(f"loras: {type(self._pipe).__name__} takes none", code="lora_unsupported")
        for (name, _), ref, path in zip(adapters, refs, paths, strict=True):
            if name not in self._kept:
                self._load(name, ref, path)
            self._kept.move_to_end(name)
        while sum(self._kept.values()) > self._max_bytes and len(self._kept) > len(adapters):
            self._drop(next(iter(self._kept)))
        self._selected = adapters
        self._activate()

    def free(self) -> None:
        """Drop those that the last clip did not use."""
        for name in set(self._kept) - {name for name, _ in self._selected}:
            self._drop(name)
        if set(self._kept) == {name for name, _ in self._selected}:
            self._activate()

    @property
    def kept(self) -> tuple[str, ...]:
        """The names of the adapters in memory, the last used last."""
        return tuple(self._kept)

    @property
    def on_text(self) -> str:
        """Return what acts on text encoders, whose embeddings then are others; empty: nothing."""
        changed = any(part.startswith("text_encoder") for part, _ in self._parts())
        return repr(self._selected) if changed else ""

    def _parts(self) -> Iterator[tuple[str, Any]]:
        """Components with adapters, by name. The library's calls for a whole pipeline fail at those without."""
        for name in getattr(self._pipe, "_lora_loadable_modules", ()):
            part = getattr(self._pipe, name, None)
            if getattr(part, "peft_config", None):
                yield name, part

    def _activate(self) -> None:
        if self._active == self._selected:
            return
        self._active = None
        for _, part in self._parts():
            active = [(name, scale) for name, scale in self._selected if name in part.peft_config]
            if active:
                _enable(part, [name for name, _ in active], [scale for _, scale in active])
            else:
                _disable(part)
        self._active = self._selected

    def _load(self, name: str, ref: LoraRef, path: Path) -> None:
        label = f"loras: {ref.file.name!r}"
        if not path.is_file():
            raise RetryableError(f"{label} is no longer at {path}", code="input_gone")
        second = {"load_into_transformer_2": True} if ref.load_into_transformer_2 else {}
        self._active = None
        try:
            with safe_to_load(path, ref.file.name) as safe, _expect_several_adapters():
                expected = _named(self._pipe.lora_state_dict(str(safe)))
                self._pipe.load_lora_weights(str(safe), adapter_name=name, **second)
        except (torch.OutOfMemoryError, MemoryError) as error:
            self._forget(name)
            raise OutOfMemoryError(f"{label}: {error}") from error
        except Exception as error:
            self._forget(name)
            message = f"{label} cannot be loaded into {type(self._pipe).__name__}: {type(error).__name__}: {error}"
            raise RefusedError(message[:2000], code="lora_unusable") from error
        halves = _without_other_half(expected)
        if halves:
            self._forget(name)
            raise RefusedError(f"{label} is incomplete: {named(halves)} has no other half", code="lora_unusable")
        tensors = [value for _, part in self._parts() for key, value in part.named_parameters() if f".{name}." in key]
        if not tensors or len(tensors) < len(expected):
            self._forget(name)
            raise RefusedError(
                f"{label} is of another model: {len(tensors)} of its {len(expected)} tensors fit this one",
                code="lora_unusable",
            )
        self._kept[name] = sum(value.nbytes for value in tensors)

    def _drop(self, name: str) -> None:
        self._forget(name)
        del self._kept[name]

    def _forget(self, name: str) -> None:
        """Take the adapter off every component that has it; the last one takes the layers for adapters with it."""
        self._active = None
        with _expect_several_adapters():
            for _, part in list(self._parts()):
                if name in part.peft_config:
                    _delete(part, name)
        if not any(True for _ in self._parts()) and hasattr(self._pipe, "unload_lora_weights"):
            self._pipe.unload_lora_weights()


def adapter_name(ref: LoraRef) -> str:
    """Return a name by content: the same file is the same adapter, whatever it is called."""
    return f"l{ref.file.sha256[:24]}{'_2' if ref.load_into_transformer_2 else ''}"


def _named(loaded: Any) -> list[str]:
    """The names of a LoRA's own tensors in what the pipeline read, which may have more in it, such as alphas."""
    tensors = loaded[0] if isinstance(loaded, tuple) else loaded
    return [name for name in tensors if ".lora_A." in name or ".lora_B." in name or ".lokr_" in name]


def _without_other_half(names: Sequence[str]) -> list[str]:
    """Those whose product has one factor only: the library fills the other with random numbers."""
    all_names = set(names)
    return [name for name in names if ".lora_" in name and _other_half(name) not in all_names]


def _other_half(name: str) -> str:
    first = ".lora_A." in name
    return name.replace(".lora_A.", ".lora_B.") if first else name.replace(".lora_B.", ".lora_A.")


@contextlib.contextmanager
def _expect_several_adapters() -> Iterator[None]:
    """The library warns where a model has several adapters, and where another one becomes active."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        warnings.filterwarnings("ignore", "Adapter .* was active which is now deleted")
        yield


def _enable(part: Any, names: list[str], scales: list[float]) -> None:
    if hasattr(part, "set_adapters") and hasattr(part, "enable_lora"):
        part.set_adapters(names, scales)
        part.enable_lora()
    else:  # a text encoder, which is transformers'
        lora_base.set_adapters_for_text_encoder(names, part, scales)
        lora_base.enable_lora_for_text_encoder(part)


def _disable(part: Any) -> None:
    if hasattr(part, "disable_lora"):
        part.disable_lora()
    else:
        lora_base.disable_lora_for_text_encoder(part)


def _delete(part: Any, name: str) -> None:
    if hasattr(part, "delete_adapters"):
        part.delete_adapters(name)
    else:
        delete_adapter_layers(part, name)
        part.peft_config.pop(name, None)
