"""Hooks the ``step`` of a pipeline's scheduler: the place where clips are stopped, saved and resumed.

Every diffusers video pipeline calls ``scheduler.step`` once for each timestep, while several have no step callback
(HunyuanVideo 1.5) or keep more state than a callback sees. So we stand there: the scheduler object is given, for the
time of one clip, a subclass of its own class whose ``step`` reports to a ``StepObserver`` afterwards. ``isinstance``,
the configuration and the signature that pipelines inspect stay as they were. A deep copy of the scheduler (LTX-2
steps one for its audio) joins the same watch, in order of creation; a step of the loop is over when all that take
part have made theirs.

A loop is resumed by replay. The scheduler is set up in full, but whoever asks it from outside for ``timesteps`` (or
``sigmas``) gets them from the last step that was done, so that the pipeline's loop begins there. The model runs once on
whatever latents the pipeline has made; ``step`` ignores what it is given, puts the scheduler's state back and returns
what it returned then. From there everything is as it was.
"""

import copy
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

StepObserver = Callable[[int, int], None]
"""Called after each step with (steps done, steps in all). What it raises leaves the pipeline's loop."""

_ATTRIBUTE = "_vgen_watch"
_CONFIGURATION = "_internal_dict"
"""The attribute of a scheduler's configuration in diffusers: it comes with the model, not with the clip."""
_LOOP_VIEWS = ("timesteps", "sigmas")
"""The attributes that pipelines index by the round of their loop; LTX-2 and Wan read ``sigmas`` so."""


class ReplayError(Exception):
    """The loop does not fit the state that it is to resume from; the message says where."""


@dataclass(frozen=True, slots=True)
class SchedulerState:
    """One scheduler after a step: what ``step`` returned, and every attribute but the configuration."""

    returned: Any
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LoopState:
    """The loop after ``step`` of ``total``; ``schedulers`` by order of creation, the pipeline's own is 0."""

    step: int
    total: int
    schedulers: Mapping[int, SchedulerState]


class LoopWatch:
    """One clip's loop: the schedulers that step in it, and how far they are."""

    def __init__(self, scheduler: Any, observer: StepObserver, resume: LoopState | None) -> None:
        self._observer = observer
        self._resume = resume
        self._open = True
        self._done = resume.step - 1 if resume else 0
        self._skipped = self._done
        self._schedulers: list[Any] = []
        self._steps: list[int] = []
        self._returned: dict[int, Any] = {}
        self._bystanders: set[int] = set()
        self.join(scheduler)

    def join(self, scheduler: Any) -> None:
        """Watch one more scheduler object."""
        scheduler.__dict__[_ATTRIBUTE] = _Place(self, len(self._schedulers))
        self._schedulers.append(scheduler)
        self._steps.append(self._done)

    def close(self) -> None:
        """Let schedulers that outlive the clip, such as copies, step without us."""
        self._open = False

    def state(self) -> LoopState:
        """The loop as it is after its last whole step. Tensors are not copied."""
        excluded = (_ATTRIBUTE, _CONFIGURATION)
        states = {
            index: SchedulerState(
                self._returned[index],
                {name: value for name, value in scheduler.__dict__.items() if name not in excluded},
            )
            for index, scheduler in enumerate(self._schedulers)
            if index not in self._bystanders
        }
        return LoopState(self._done, self._total(), states)

    def step(self, index: int, make: Callable[[], Any]) -> Any:
        """Make scheduler ``index`` step, or replay the step that it made before the interruption."""
        if not self._open:
            return make()
        if index == 0 and self._steps[0] > self._done:
            # The loop goes on although some copy has not stepped: that one takes no part in it.
            self._bystanders |= {at for at, steps in enumerate(self._steps) if steps == self._done}
            self._complete()
        if self._resume is not None and self._steps[index] == self._resume.step - 1:
            returned = self._replay(index, self._resume)
        else:
            returned = make()
        self._steps[index] += 1
        self._returned[index] = returned
        self._bystanders.discard(index)
        if all(steps > self._done for at, steps in enumerate(self._steps) if at not in self._bystanders):
            self._complete()
        return returned

    def view(self, value: Any) -> Any:
        """Return what the pipeline sees of the scheduler's ``timesteps`` or ``sigmas``."""
        return value[self._skipped :] if self._open and self._skipped and value is not None else value

    def _replay(self, index: int, resume: LoopState) -> Any:
        if index not in resume.schedulers:
            raise ReplayError(f"scheduler {index} steps, and the checkpoint holds {sorted(resume.schedulers)}")
        if index == 0 and self._total() != resume.total:
            raise ReplayError(f"the loop has {self._total()} steps, and the checkpoint's had {resume.total}")
        saved = resume.schedulers[index]
        attributes = self._schedulers[index].__dict__
        for name in set(attributes) - set(saved.attributes) - {_ATTRIBUTE, _CONFIGURATION}:
            del attributes[name]
        attributes.update(saved.attributes)
        self._bystanders |= set(range(len(self._schedulers))) - set(resume.schedulers)
        return saved.returned

    def _complete(self) -> None:
        self._done += 1
        self._observer(self._done, self._total())

    def _total(self) -> int:
        # Schedulers of second order have more timesteps than the steps that were asked for.
        timesteps = self._schedulers[0].__dict__.get("timesteps")
        return max(0 if timesteps is None else len(timesteps), self._done)


@dataclass(frozen=True, slots=True)
class _Place:
    """Kept in a watched scheduler: whose watch it is under, and as which."""

    watch: LoopWatch
    index: int


@contextmanager
def watched_steps(scheduler: Any, observer: StepObserver, resume: LoopState | None = None) -> Iterator[LoopWatch]:
    """While open, ``observer`` is called at every step of the loop that this scheduler object drives.

    With ``resume`` the loop begins by replaying that step; ``observer`` is called for it first. What is raised then may
    be a ``ReplayError``.
    """
    original = type(scheduler)
    watch = LoopWatch(scheduler, observer, resume)
    scheduler.__class__ = _watched_class(original)  # type: ignore[arg-type]  # mypy: a class is hashable
    try:
        yield watch
    finally:
        watch.close()
        scheduler.__dict__.pop(_ATTRIBUTE, None)
        scheduler.__class__ = original


@functools.lru_cache(maxsize=32)
def _watched_class(original: type) -> type:
    original_step: Callable[..., Any] = original.step  # type: ignore[attr-defined]

    @functools.wraps(original_step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        place = self.__dict__.get(_ATTRIBUTE)
        if place is None:
            return original_step(self, *args, **kwargs)
        return place.watch.step(place.index, lambda: original_step(self, *args, **kwargs))

    def deepcopy(self: Any, memo: dict[int, Any]) -> Any:
        clone = object.__new__(type(self))
        memo[id(self)] = clone
        for name, value in self.__dict__.items():
            if name != _ATTRIBUTE:
                clone.__dict__[name] = copy.deepcopy(value, memo)
        if _ATTRIBUTE in self.__dict__:
            self.__dict__[_ATTRIBUTE].watch.join(clone)
        return clone

    members: dict[str, Any] = {"step": step, "__deepcopy__": deepcopy, "__module__": original.__module__}
    members |= {name: _loop_view(name) for name in _LOOP_VIEWS if not hasattr(original, name)}
    return type(original.__name__, (original,), members)


def _loop_view(name: str) -> property:
    """An attribute that the scheduler's own methods see whole, and others from where the loop begins."""

    def get(self: Any) -> Any:
        try:
            value = self.__dict__[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no {name}") from None
        place = self.__dict__.get(_ATTRIBUTE)
        if place is None or sys._getframe(1).f_locals.get("self") is self:
            return value
        return place.watch.view(value)

    def put(self: Any, value: Any) -> None:
        self.__dict__[name] = value

    return property(get, put)
