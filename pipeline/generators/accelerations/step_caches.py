"""Step caches: diffusers' hooks on the denoiser's blocks, applied for one clip and removed after it."""

from collections.abc import Iterator
from typing import Any

import torch
from diffusers.hooks import (
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from diffusers.hooks.hooks import CacheContext, StateManager
from diffusers.hooks.pyramid_attention_broadcast import PyramidAttentionBroadcastHook, PyramidAttentionBroadcastState

from pipeline.acceleration import FirstBlock, MagCache, PyramidAttention, StepCache, TaylorSeer
from pipeline.errors import FatalError
from pipeline.generators.accelerations.refusals import denoisers, unsupported

_ATTENTION = r"\w*blocks\.\d+\.attn\w*"
"""diffusers' own default for TaylorSeer asks for names that end in ``attn``: Wan's are attn1 and attn2."""
_WITHOUT_CONTEXT = CacheContext("all")
_OTHERS = "first_block, taylorseer, mag_cache and pyramid_attention differ in what they need; attention may help too"


def put_on(pipe: Any, cache: StepCache, steps: int) -> None:
    """Give every denoiser fresh hooks. ``steps`` are the scheduler's.

    Raises:
        RefusedError: code ``acceleration_unsupported``.
    """
    try:
        for model in denoisers(pipe).values():
            _put_on(pipe, model, cache, steps)
    except BaseException:
        take_off(pipe)
        raise


def take_off(pipe: Any) -> None:
    """Remove the hooks and what they hold; nothing to do where there are none."""
    for model in denoisers(pipe).values():
        if getattr(model, "is_cache_enabled", False):
            model.disable_cache()


def hooks(model: Any) -> Iterator[tuple[str, Any]]:
    """Every hook of diffusers in the model, by the module's and its own name."""
    for name, module in model.named_modules():
        registry = getattr(module, "_diffusers_hook", None)
        if registry is not None:
            yield from ((f"{name}/{hook_name}", hook) for hook_name, hook in registry.hooks.items())


def state_managers(model: Any) -> Iterator[tuple[str, StateManager]]:
    """Yield the state managers of step caches, each once: blocks may share one."""
    seen: set[int] = set()
    for name, hook in hooks(model):
        manager = getattr(hook, "state_manager", None)
        if manager is not None and id(manager) not in seen:
            seen.add(id(manager))
            yield name, manager


def _put_on(pipe: Any, model: Any, cache: StepCache, steps: int) -> None:
    if not hasattr(model, "enable_cache"):
        raise unsupported("step_cache", model, "it is not made of blocks; attention, compile and offload are possible")
    config = _config(pipe, model, cache, steps)
    try:
        model.enable_cache(config)
    except (ValueError, IndexError, AttributeError, NotImplementedError) as error:
        # Some hooks may be on: marked as enabled, so that they are taken off.
        model._cache_config = config
        raise unsupported("step_cache", model, f"{cache.kind}: {error}; {_OTHERS}") from error
    if not any(True for _ in state_managers(model)) and not isinstance(cache, PyramidAttention):
        raise unsupported("step_cache", model, f"{cache.kind} finds no block to hold on to; {_OTHERS}")
    if isinstance(cache, PyramidAttention):
        _remember_by_call(model)


def _config(pipe: Any, model: Any, cache: StepCache, steps: int) -> Any:
    if isinstance(cache, FirstBlock):
        return FirstBlockCacheConfig(threshold=cache.threshold)
    if isinstance(cache, TaylorSeer):
        half = model.dtype in (torch.float16, torch.bfloat16)
        return TaylorSeerCacheConfig(
            cache_interval=cache.interval,
            disable_cache_before_step=cache.warm_up,
            max_order=cache.order,
            taylor_factors_dtype=torch.bfloat16 if half else torch.float32,
            cache_identifiers=None if cache.lite else [_ATTENTION],
            use_lite_mode=cache.lite,
        )
    if isinstance(cache, MagCache):
        return _mag_config(pipe, model, cache, steps)
    return _pyramid_config(pipe, cache)


def _mag_config(pipe: Any, model: Any, cache: MagCache, steps: int) -> MagCacheConfig:
    if len(denoisers(pipe)) > 1:
        raise unsupported("step_cache", model, "mag_cache counts one denoiser's steps, this has two; use first_block")
    if not cache.ratios:
        raise unsupported("step_cache", model, "mag_cache was given no ratios; `vgen models calibrate` measures them")
    return MagCacheConfig(
        threshold=cache.threshold,
        max_skip_steps=cache.max_skip,
        retention_ratio=cache.retention,
        num_inference_steps=steps,
        mag_ratios=list(cache.ratios),
    )


def _pyramid_config(pipe: Any, cache: PyramidAttention) -> PyramidAttentionBroadcastConfig:
    between = (cache.timestep_low, cache.timestep_high)

    def timestep() -> int:
        now = getattr(pipe, "current_timestep", None)
        if now is None:
            raise FatalError(f"step_cache: {type(pipe).__name__} does not say its timestep")
        return int(now)

    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=cache.spatial,
        temporal_attention_block_skip_range=cache.temporal,
        cross_attention_block_skip_range=cache.cross,
        spatial_attention_timestep_skip_range=between,
        temporal_attention_timestep_skip_range=between,
        cross_attention_timestep_skip_range=between,
        current_timestep_callback=timestep,
    )


class _PyramidByCall(PyramidAttentionBroadcastHook):  # type: ignore[misc]  # mypy does not read diffusers
    """diffusers' hook remembers one result; pipelines that call the model with and without the prompt need one each."""

    state_manager: StateManager

    @property
    def state(self) -> Any:
        if self.state_manager._context is None:
            self.state_manager.set_context(_WITHOUT_CONTEXT)
        return self.state_manager.get_state()

    @state.setter
    def state(self, value: Any) -> None:
        """Set by ``initialize_hook`` before we are it."""

    def reset_state(self, module: Any) -> Any:
        self.state_manager.reset()
        return module


def _remember_by_call(model: Any) -> None:
    attention_hooks = [hook for _, hook in hooks(model) if isinstance(hook, PyramidAttentionBroadcastHook)]
    if not attention_hooks:
        raise unsupported("step_cache", model, f"pyramid_attention finds no such attention in it; {_OTHERS}")
    for hook in attention_hooks:
        hook.__dict__.pop("state", None)
        hook.__class__ = _PyramidByCall
        hook.state_manager = StateManager(PyramidAttentionBroadcastState)
