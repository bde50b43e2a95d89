"""The seam between a pipeline's denoising loop and us: the scheduler's ``step``.

Every diffusers video pipeline calls ``scheduler.step`` once for each timestep, while several have no step callback
(HunyuanVideo 1.5) or keep more state than a callback sees. So we stand there: the scheduler object is given, for the
time of one clip, a subclass of its own class whose ``step`` reports to a ``StepObserver`` afterwards. ``isinstance``,
the configuration and the signature that pipelines inspect stay as they were. A deep copy of the scheduler (LTX-2
steps one for its audio) keeps working and reports nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

StepObserver = Callable[[int, int], None]
"""Called after each step with (steps done, steps in all). What it raises leaves the pipeline's loop."""

_ATTRIBUTE = "_vgen_watch"


class _Watch:
    """Counts the steps of one scheduler object."""

    def __init__(self, observer: StepObserver | None) -> None:
        self._observer = observer
        self._done = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> _Watch:
        return _Watch(None)

    def stepped(self, scheduler: Any) -> None:
        self._done += 1
        if self._observer is not None:
            # Schedulers of second order have more timesteps than the steps that were asked for.
            self._observer(self._done, max(len(scheduler.timesteps), self._done))


@contextmanager
def watched_steps(scheduler: Any, observer: StepObserver) -> Iterator[None]:
    """While open, ``observer`` is told of every ``step`` of this scheduler object."""
    original = type(scheduler)
    scheduler.__class__ = _watched_class(original)  # type: ignore[arg-type]  # mypy: a class is hashable
    scheduler.__dict__[_ATTRIBUTE] = _Watch(observer)
    try:
        yield
    finally:
        scheduler.__dict__.pop(_ATTRIBUTE, None)
        scheduler.__class__ = original


@functools.lru_cache(maxsize=32)
def _watched_class(original: type) -> type:
    original_step: Callable[..., Any] = original.step  # type: ignore[attr-defined]

    @functools.wraps(original_step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original_step(self, *args, **kwargs)
        self.__dict__[_ATTRIBUTE].stepped(self)
        return result

    return type(original.__name__, (original,), {"step": step, "__module__": original.__module__})
