"""Accelerations of one clip: applied before it and removed after it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from diffusers.models.attention_dispatch import _AttentionBackendRegistry

from pipeline.acceleration import Acceleration
from pipeline.generators.accelerations import step_caches
from pipeline.generators.accelerations.refusals import denoisers, unavailable, unsupported

_ON_A_CPU = ("native", "_native_math", "_native_flash")


@contextmanager
def accelerated(pipe: Any, acceleration: Acceleration, *, steps: int, device: str) -> Iterator[None]:
    """While open, the pipeline works in the wanted way. What belongs to its loading is not looked at.

    Raises:
        RefusedError: codes ``acceleration_unsupported`` and ``acceleration_unavailable``; nothing is left on then.
    """
    with ExitStack() as stack:
        if acceleration.attention is not None:
            stack.enter_context(_attention(pipe, acceleration.attention, device))
        for option, wish in (("tiling", acceleration.vae_tiling), ("slicing", acceleration.vae_slicing)):
            if wish:
                stack.enter_context(_vae(pipe, option))
        if acceleration.step_cache is not None:
            step_caches.put_on(pipe, acceleration.step_cache, steps)
            stack.callback(step_caches.take_off, pipe)
        yield


@contextmanager
def _attention(pipe: Any, backend: str, device: str) -> Iterator[None]:
    if device == "cpu" and backend not in _ON_A_CPU:
        raise unavailable("attention", f"{backend} needs a CUDA GPU; a CPU has {', '.join(_ON_A_CPU)}")
    before = _AttentionBackendRegistry._active_backend
    models = list(denoisers(pipe).values())
    try:
        for model in models:
            _set_backend(model, backend)
        yield
    finally:
        for model in models:
            if hasattr(model, "reset_attention_backend"):
                model.reset_attention_backend()
        # The setter changes the default of the whole process too.
        _AttentionBackendRegistry.set_active_backend(before)


def _set_backend(model: Any, backend: str) -> None:
    if not hasattr(model, "set_attention_backend"):
        raise unsupported("attention", model, "it does not use diffusers' dispatcher; leave the option out")
    try:
        model.set_attention_backend(backend)
    except (RuntimeError, ValueError, ImportError, OSError) as error:
        alternatives = ", ".join(name for name in _ON_A_CPU if name != backend)
        raise unavailable("attention", f"{str(error).rstrip('.')}. Always there: {alternatives}") from error


@contextmanager
def _vae(pipe: Any, option: str) -> Iterator[None]:
    vae = getattr(pipe, "vae", None)
    try:
        getattr(vae, f"enable_{option}")()
    except (AttributeError, NotImplementedError) as error:
        raise unsupported(f"vae_{option}", vae, "its class has none; offload saves memory too") from error
    try:
        yield
    finally:
        getattr(vae, f"disable_{option}")()
