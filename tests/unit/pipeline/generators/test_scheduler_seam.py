"""The scheduler's seam keeps everything that pipelines look at."""

from __future__ import annotations

import copy
import inspect

import diffusers
import pytest
import torch

from pipeline.errors import StoppedError
from pipeline.generators.denoising.scheduler_hook import LoopState, ReplayError, watched_steps

# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is about to drop; not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SCHEDULERS = [
    diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    diffusers.FlowMatchEulerDiscreteScheduler(),
    diffusers.EulerDiscreteScheduler(),
    diffusers.CogVideoXDDIMScheduler(),
    diffusers.FlowMatchHeunDiscreteScheduler(),
]


def run(scheduler: diffusers.SchedulerMixin, steps: int) -> torch.Tensor:
    scheduler.set_timesteps(steps)
    sample = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    for timestep in scheduler.timesteps:
        sample = scheduler.step(sample * 0.1, timestep, sample, return_dict=False)[0]
    return sample


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda scheduler: type(scheduler).__name__)
def test_steps_are_counted_and_the_result_is_the_same(scheduler: diffusers.SchedulerMixin) -> None:
    cls = type(scheduler)
    signature = inspect.signature(scheduler.step)
    plain = run(scheduler, 4)
    seen: list[tuple[int, int]] = []
    with watched_steps(scheduler, lambda step, total: seen.append((step, total))):
        assert isinstance(scheduler, cls)
        assert type(scheduler).__name__ == cls.__name__
        assert inspect.signature(scheduler.step) == signature
        watched = run(scheduler, 4)
    total = len(scheduler.timesteps)
    assert seen == [(step, total) for step in range(1, total + 1)]
    assert torch.equal(plain, watched)
    assert type(scheduler) is cls


def test_a_copy_that_takes_no_part_in_the_loop_holds_nothing_up() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    seen: list[int] = []
    with watched_steps(scheduler, lambda step, _: seen.append(step)) as loop:
        scheduler.set_timesteps(3)
        aside = copy.deepcopy(scheduler)
        run(scheduler, 3)
        assert seen == [1, 2, 3]
        assert aside.step_index is None
        assert sorted(loop.state().schedulers) == [0]
    run(aside, 3)
    assert seen == [1, 2, 3]


def two_schedulers(scheduler: diffusers.SchedulerMixin, seen: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """A loop like that of LTX-2: a private copy steps the sound, and both read ``sigmas`` by the loop's round."""
    sound = copy.deepcopy(scheduler)
    sound.set_timesteps(4)
    scheduler.set_timesteps(4)
    one = two = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    for i, timestep in enumerate(scheduler.timesteps):
        guess = one * scheduler.sigmas[i] + two * sound.sigmas[i]
        seen.append(f"model at {timestep:.0f}")
        one = scheduler.step(guess, timestep, one, return_dict=False)[0]
        two = sound.step(guess * 0.5, timestep, two, return_dict=False)[0]
    return one, two


@pytest.mark.parametrize("step", [1, 2, 3, 4])
@pytest.mark.parametrize("cls", [diffusers.FlowMatchEulerDiscreteScheduler, diffusers.UniPCMultistepScheduler])
def test_a_loop_of_two_schedulers_goes_on_from_what_both_held(cls: type[diffusers.SchedulerMixin], step: int) -> None:
    expected = two_schedulers(cls(), [])
    states: list[LoopState] = []
    scheduler = cls()

    def stop(done: int, total: int) -> None:
        assert total == 4
        if done == step:
            states.append(copy.deepcopy(loop.state()))
            raise StoppedError("enough")

    with pytest.raises(StoppedError), watched_steps(scheduler, stop) as loop:
        two_schedulers(scheduler, [])
    assert sorted(states[0].schedulers) == [0, 1]

    models: list[str] = []
    told: list[int] = []
    fresh = cls()
    with watched_steps(fresh, lambda done, _: told.append(done), states[0]):
        resumed = two_schedulers(fresh, models)

    assert torch.equal(resumed[0], expected[0])
    assert torch.equal(resumed[1], expected[1])
    assert told == list(range(step, 5))
    assert len(models) == 4 - step + 1


def test_a_loop_of_another_length_is_not_resumed() -> None:
    states: list[LoopState] = []
    scheduler = diffusers.UniPCMultistepScheduler()
    with watched_steps(scheduler, lambda done, _: states.append(loop.state()) if done == 2 else None) as loop:
        run(scheduler, 4)
    with pytest.raises(ReplayError, match="the loop has 5 steps, and the checkpoint's had 4"):
        with watched_steps(scheduler, lambda *_: None, states[0]):
            run(scheduler, 5)


def test_what_the_observer_raises_leaves_the_loop_and_the_scheduler_as_it_was() -> None:
    scheduler = diffusers.UniPCMultistepScheduler()
    cls = type(scheduler)

    def stop(step: int, _: int) -> None:
        if step == 2:
            raise StoppedError("enough")

    with pytest.raises(StoppedError), watched_steps(scheduler, stop):
        run(scheduler, 4)
    assert type(scheduler) is cls
