"""Saves and restores step caches in checkpoints; without them the following steps would differ."""

from collections.abc import Mapping
from typing import Any

import torch

from pipeline.generators.accelerations.refusals import denoisers
from pipeline.generators.accelerations.step_caches import state_managers
from pipeline.generators.denoising.checkpoint_file import CheckpointUnusableError, UnsupportedStateError

MAX_BYTES = 1024**3
"""More is sooner computed again than stored: a cache of every layer's attention of a 1.3B model has some 10 GB."""
_WITHIN_A_CALL = frozenset({"head_block_output", "head_block_input"})
"""Set and used within one call of the model."""

CacheStates = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""The attributes of states, by hook, then by kind of call ("cond", "uncond")."""


def cache_states(pipe: Any) -> dict[str, Any]:
    """The states as they are now; tensors are not copied. Empty without a step cache.

    Raises:
        UnsupportedStateError: they are too large for a checkpoint.
    """
    states: dict[str, Any] = {}
    for name, model in denoisers(pipe).items():
        for hook, manager in state_managers(model):
            states[f"{name}/{hook}"] = {call: _attributes(state) for call, state in manager._state_cache.items()}
    if (size := _bytes(states)) > MAX_BYTES:
        raise UnsupportedStateError(f"the step cache remembers {size / 1e9:.1f} GB, too much for a checkpoint")
    return states


def restore_cache_states(pipe: Any, saved: CacheStates) -> None:
    """Put the states back into the hooks that are on the pipeline now.

    Raises:
        CheckpointUnusableError: the hooks are others than those that were saved.
    """
    managers = {
        f"{name}/{hook}": manager for name, model in denoisers(pipe).items() for hook, manager in state_managers(model)
    }
    if managers.keys() != saved.keys():
        raise CheckpointUnusableError("the step cache's hooks differ from those of the checkpoint")
    for name, manager in managers.items():
        manager._state_cache.clear()
        for call, attributes in saved[name].items():
            state = manager._state_cls(*manager._init_args, **manager._init_kwargs)
            for attribute, value in attributes.items():
                setattr(state, attribute, value)
            manager._state_cache[call] = state


def _attributes(state: Any) -> dict[str, Any]:
    return {name: _plain(value) for name, value in vars(state).items() if name not in _WITHIN_A_CALL}


def _plain(value: Any) -> Any:
    """Replace torch.Size, which is a tuple of its own type."""
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(_bytes(item) for item in value.values())
    return sum(_bytes(item) for item in value) if isinstance(value, (list, tuple)) else 0
