"""Records what pixels depend on beside the request, and the memory that was used."""

import contextlib
import os
import platform
import resource
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pipeline.acceleration import Acceleration
from pipeline.errors import FatalError, OutOfMemoryError, StageError
from pipeline.generators.accelerations import quantised
from pipeline.generators.read_pipeline import dtype_on
from pipeline.presets import Preset

_CLEAR_REFS = Path("/proc/self/clear_refs")
"""Linux: writing 5 begins the count of the most resident memory anew (its documentation, filesystems/proc)."""
_STATUS = Path("/proc/self/status")


class Clock:
    """Seconds between marks."""

    def __init__(self) -> None:
        self.spans: dict[str, float] = {}
        self._last = time.monotonic()

    def mark(self, name: str) -> None:
        now = time.monotonic()
        self.spans[name] = now - self._last
        self._last = now


def translated(error: Exception, doing: str) -> StageError:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return OutOfMemoryError(f"{doing}: {error}")
    return FatalError(f"{doing}: {type(error).__name__}: {error}")


def reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        _CLEAR_REFS.write_text("5", "ascii")


def peak(device: str) -> int:
    """Most bytes held since ``reset_peak``: of the GPU by tensors, else resident in this process."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def numerics(preset: Preset, device: str, acceleration: Acceleration, *, loras: bool = False) -> dict[str, Any]:
    """The numerics fingerprint's parts; one that is off may be left out, which is the same as None."""
    parts: dict[str, Any] = {
        "device": device,
        "device_name": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "dtype": dtype_on(preset, device),
        "vae_dtype": preset.vae_dtype or dtype_on(preset, device),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "transformers": version("transformers"),
        "attention": acceleration.attention or os.environ.get("DIFFUSERS_ATTN_BACKEND", "native"),
        "compile": acceleration.compile,
        "step_cache": None if acceleration.step_cache is None else acceleration.step_cache.model_dump(mode="json"),
        "tiling": acceleration.vae_tiling,
        "quantisation": quantised.numerics(acceleration.quantisation),
    }
    if loras:
        parts["peft"] = version("peft")
    if acceleration.vae_slicing:
        parts["slicing"] = True
    if acceleration.context_parallel > 1:
        parts["context_parallel"] = acceleration.context_parallel
    if acceleration.layerwise_casting is not None:
        parts["layerwise_casting"] = acceleration.layerwise_casting
    if device == "cuda":
        parts["cuda"] = torch.version.cuda
    else:
        parts["threads"] = torch.get_num_threads()
    return parts
