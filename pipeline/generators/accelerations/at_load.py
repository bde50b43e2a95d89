"""Accelerations that are applied when the model is loaded; another one needs another load."""

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from pipeline.acceleration import Acceleration
from pipeline.generators.accelerations import parallel, quantised
from pipeline.generators.accelerations.refusals import denoisers, unavailable, unsupported

_BLOCKS = ("transformer_blocks", "single_transformer_blocks", "temporal_transformer_blocks", "blocks", "layers")
"""The attributes of repeated blocks in models that name none: diffusers' own list (``hooks/_common.py``)."""
_GROUP_BLOCKS = 1
"""Blocks in a group: with a stream the next one is fetched meanwhile."""


def reading_arguments(acceleration: Acceleration, folder: Path, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Return what ``from_pretrained`` is given besides.

    Raises:
        RefusedError: codes ``acceleration_unavailable`` and ``acceleration_unsupported``.
    """
    if acceleration.context_parallel > 1:
        parallel.check_joined(acceleration.context_parallel)
    return (
        {}
        if acceleration.quantisation is None
        else quantised.arguments(acceleration.quantisation, folder, dtype, device)
    )


def fit(pipe: Any, acceleration: Acceleration, *, device: str, dtype: torch.dtype) -> Any:
    """The pipeline that was read, on its device, as it is wanted.

    Raises:
        RefusedError: codes ``acceleration_unavailable`` and ``acceleration_unsupported``.
    """
    if acceleration.layerwise_casting is not None:
        _cast(pipe, getattr(torch, acceleration.layerwise_casting), dtype)
    pipe = _place(pipe, acceleration, device)
    if acceleration.context_parallel > 1:
        parallel.share(pipe, acceleration.context_parallel)
    if acceleration.compile:
        _compile(pipe, device)
    return pipe


def _cast(pipe: Any, storage: torch.dtype, dtype: torch.dtype) -> None:
    for model in denoisers(pipe).values():
        if not hasattr(model, "enable_layerwise_casting"):
            raise unsupported("layerwise_casting", model, "its class has none; offload saves memory too")
        model.enable_layerwise_casting(storage_dtype=storage, compute_dtype=dtype)


def _place(pipe: Any, acceleration: Acceleration, device: str) -> Any:
    if acceleration.offload is None and not acceleration.text_encoder_offload:
        return pipe.to(device)
    if device == "cpu":
        option = "offload" if acceleration.offload else "text_encoder_offload"
        raise unavailable(option, "it needs a GPU to fetch weights to; vae_tiling and layerwise_casting work on a CPU")
    if acceleration.offload == "model":
        pipe.enable_model_cpu_offload()
        return pipe
    if acceleration.offload is None:
        return _text_encoders_offloaded(pipe, device)
    stream = acceleration.offload == "group-stream"
    pipe.enable_group_offload(
        onload_device=torch.device(device),
        offload_device=torch.device("cpu"),
        offload_type="leaf_level" if stream else "block_level",
        num_blocks_per_group=None if stream else _GROUP_BLOCKS,
        use_stream=stream,
    )
    return pipe


def _text_encoders_offloaded(pipe: Any, device: str) -> Any:
    """Leaves of the text encoders are fetched when they are called; the rest stays on the GPU."""
    from diffusers.hooks import apply_group_offloading  # noqa: PLC0415

    for name, component in pipe.components.items():
        if not isinstance(component, torch.nn.Module):
            continue
        if name.startswith("text_encoder"):
            apply_group_offloading(
                component,
                onload_device=torch.device(device),
                offload_device=torch.device("cpu"),
                offload_type="leaf_level",
            )
        else:
            component.to(device)
    return pipe


def _compile(pipe: Any, device: str) -> None:
    """Compile the repeated blocks. What the compiler makes is kept for the next process (``generators.process``)."""
    if device == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise unavailable("compile", "torch.compile needs a C++ compiler (g++) on a CPU; step_cache needs none")
    if device == "cuda" and find_spec("triton") is None:
        raise unavailable("compile", "torch.compile needs the package triton, not installed; step_cache needs none")
    for model in denoisers(pipe).values():
        if getattr(model, "_repeated_blocks", None):
            model.compile_repeated_blocks()
            continue
        blocks = [block for name in _BLOCKS for block in getattr(model, name, ())]
        if not blocks:
            raise unsupported("compile", model, "it has no repeated blocks; attention may help")
        for block in blocks:
            block.compile()
