"""The scheduler's seam keeps everything that pipelines look at."""

from __future__ import annotations

import copy
import inspect

import diffusers
import pytest
import torch

from pipeline.errors import StoppedError
from pipeline.generators.scheduler_seam import watched_steps

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


def test_copy_steps_on_its_own_and_reports_nothing() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    seen: list[int] = []
    with watched_steps(scheduler, lambda step, _: seen.append(step)):
        scheduler.set_timesteps(3)
        run(copy.deepcopy(scheduler), 3)
        assert scheduler.step_index is None
    assert seen == []


def test_what_the_observer_raises_leaves_the_loop_and_the_scheduler_as_it_was() -> None:
    scheduler = diffusers.UniPCMultistepScheduler()
    cls = type(scheduler)

    def stop(step: int, _: int) -> None:
        if step == 2:
            raise StoppedError("enough")

    with pytest.raises(StoppedError), watched_steps(scheduler, stop):
        run(scheduler, 4)
    assert type(scheduler) is cls
