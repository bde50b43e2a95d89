"""Writes and reads the state of a denoising loop: nested structures of tensors and numbers.

What a scheduler may hold is written down here, type by type; anything else is refused when the checkpoint is written,
so that a pipeline whose state is not understood starts again from its seed instead of going on wrongly.
"""

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.generators.denoising.checkpoint_file import CheckpointUnusableError, UnsupportedStateError, step_of
from pipeline.generators.denoising.scheduler_hook import LoopState, SchedulerState

_LOOP = "loop"
_RNG = "rng."
_CACHES = "caches"


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """The point where a clip resumes: the loop, and its random generators' states just after the step, by name.

    ``caches`` is what a step cache remembered then, as ``accelerations.cache_states`` gives it.
    """

    loop: LoopState
    rng: dict[str, torch.Tensor]
    caches: Mapping[str, Any] = field(default_factory=dict)


def write_checkpoint(
    path: Path,
    metadata: Mapping[str, str],
    loop: LoopState,
    rng: Mapping[str, torch.Tensor],
    caches: Mapping[str, Any] | None = None,
) -> None:
    """Write the state as one safetensors file.

    Raises:
        UnsupportedStateError: a scheduler holds a value of a type that is not known here.
        OSError, SafetensorError: the file cannot be written.
    """
    tensors = {f"{_RNG}{name}": state for name, state in rng.items()}
    schedulers = []
    for index, scheduler_state in sorted(loop.schedulers.items()):
        returned = _pack(scheduler_state.returned, tensors, f"scheduler {index}'s result")
        attributes = {
            name: _pack(value, tensors, f"scheduler {index}'s {name}")
            for name, value in scheduler_state.attributes.items()
        }
        schedulers.append({"index": index, "returned": returned, "attributes": attributes})
    more = {_CACHES: json.dumps(_pack(dict(caches), tensors, "the step cache"))} if caches else {}
    save_file(tensors, path, {**metadata, _LOOP: json.dumps(schedulers), **more})


def read_checkpoint(path: Path, metadata: Mapping[str, str], device: str) -> ResumePoint:
    """The state that ``write_checkpoint`` wrote; tensors that were on a GPU come to ``device``.

    Raises:
        CheckpointUnusableError: it cannot be understood.
    """
    try:
        tensors = load_file(path)
        step, total = step_of(metadata)
        schedulers = {
            int(entry["index"]): SchedulerState(
                _unpack(entry["returned"], tensors, device),
                {name: _unpack(value, tensors, device) for name, value in entry["attributes"].items()},
            )
            for entry in json.loads(metadata[_LOOP])
        }
        rng = {name.removeprefix(_RNG): state for name, state in tensors.items() if name.startswith(_RNG)}
        caches = _unpack(json.loads(metadata[_CACHES]), tensors, device) if _CACHES in metadata else {}
        return ResumePoint(LoopState(step, total, schedulers), rng, caches)
    except (
        OSError,
        SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        ImportError,
    ) as error:
        raise CheckpointUnusableError(f"cannot be read: {type(error).__name__}: {error}") from error


def _pack(value: Any, tensors: dict[str, torch.Tensor], where: str) -> Any:
    """JSON for the value; its tensors go to ``tensors``, copied."""
    if value is None or (isinstance(value, (bool, int, float, str)) and type(value).__module__ == "builtins"):
        return ["plain", value]
    if isinstance(value, torch.Tensor):
        return ["tensor", _store(value, tensors), value.device.type]
    if isinstance(value, np.ndarray):
        return ["array", _store(torch.from_numpy(np.array(value)), tensors), None]
    if isinstance(value, np.generic):
        return ["number", value.dtype.str, value.item()]
    if isinstance(value, torch.device):
        return ["device", value.type]
    if isinstance(value, torch.dtype):
        return ["dtype", str(value).removeprefix("torch.")]
    if isinstance(value, BaseOutput) and type(value).__module__.startswith("diffusers."):
        name = f"{type(value).__module__}:{type(value).__qualname__}"
        return ["output", name, [[key, _pack(item, tensors, where)] for key, item in value.items()]]
    if type(value) in (list, tuple):
        return [type(value).__name__, [_pack(item, tensors, where) for item in value]]
    if type(value) is dict:
        return ["dict", [[_pack(k, tensors, where), _pack(item, tensors, where)] for k, item in value.items()]]
    raise UnsupportedStateError(f"{where} is a {type(value).__module__}.{type(value).__qualname__}")


def _store(value: torch.Tensor, tensors: dict[str, torch.Tensor]) -> str:
    name = str(len(tensors))
    tensors[name] = value.detach().to("cpu", copy=True).contiguous()
    return name


def _unpack(packed: Any, tensors: Mapping[str, torch.Tensor], device: str) -> Any:
    kind, *parts = packed
    if kind == "plain":
        return parts[0]
    if kind == "tensor":
        return tensors[parts[0]].to("cpu" if parts[1] == "cpu" else device, copy=True)
    if kind == "array":
        return tensors[parts[0]].numpy().copy()
    if kind == "number":
        return np.dtype(parts[0]).type(parts[1])
    if kind == "device":
        return torch.device("cpu" if parts[0] == "cpu" else device)
    if kind == "dtype":
        return getattr(torch, parts[0])
    if kind == "output":
        return _output_class(parts[0])(**{key: _unpack(item, tensors, device) for key, item in parts[1]})
    if kind in ("list", "tuple"):
        items = [_unpack(item, tensors, device) for item in parts[0]]
        return items if kind == "list" else tuple(items)
    if kind == "dict":
        return {_unpack(key, tensors, device): _unpack(item, tensors, device) for key, item in parts[0]}
    raise ValueError(f"unknown kind {kind!r}")


def _output_class(name: str) -> type[BaseOutput]:
    """One of diffusers' own result classes; nothing else is imported for a checkpoint."""
    module, _, qualname = name.partition(":")
    if not module.startswith("diffusers."):
        raise ValueError(f"{name} is not a class of diffusers")
    output_class = getattr(importlib.import_module(module), qualname)
    if not issubclass(output_class, BaseOutput):
        raise ValueError(f"{name} is not a scheduler's result class")
    return output_class  # type: ignore[no-any-return]
