"""When a checkpoint is written, which ones are refused, and that what is read is what was written."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput

from pipeline.errors import StoppedError
from pipeline.generators.base import GenerationRequest, Progress, SavedCheckpoint
from pipeline.generators.denoising.checkpoint_file import (
    CheckpointKeeper,
    CheckpointUnusableError,
    Identity,
    UnsupportedStateError,
    metadata,
    read_metadata,
    write_state_only,
)
from pipeline.generators.denoising.checkpoint_tensors import read_checkpoint, write_checkpoint
from pipeline.generators.denoising.scheduler_hook import LoopState, SchedulerState
from tests.unit.pipeline.generators.conftest import MakeRequest

# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is about to drop; not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

NUMERICS = {"device": "cpu", "threads": 1}


class Told:
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.refused: list[str] = []

    def saved(self, checkpoint: SavedCheckpoint) -> None:
        assert checkpoint.path.stat().st_size == checkpoint.size
        self.steps.append(checkpoint.step)

    def unusable(self, reason: str) -> None:
        self.refused.append(reason)


def identity(request: GenerationRequest, **numerics: object) -> Identity:
    return Identity.of(request, model={"revision": "r1"}, numerics={**NUMERICS, **numerics})


def run(request: GenerationRequest, seconds: list[float], told: Told, *, stop: StoppedError | None = None) -> None:
    """A loop whose steps end at these times after its begin; with ``stop`` there would be one more step."""
    now = 0.0
    keeper = CheckpointKeeper(request, identity(request), told, lambda: now)

    def on_progress(progress: Progress) -> None:
        if stop is not None and progress.step == len(seconds):
            raise stop

    for step, at in enumerate(seconds, 1):
        now = at
        keeper.after_step(step, len(seconds) + (stop is not None), on_progress, write_state_only)


@pytest.mark.parametrize(
    ("every", "seconds", "kept"),
    [
        (60.0, [30, 61, 90, 122, 130], [2, 4, 5]),
        (60.0, [0.1, 0.2, 0.9], []),
        (60.0, [0.5, 1.0], [2]),
        (0.0, [100, 200, 300], [3]),
        (0.01, [0.1, 0.2], [1, 2]),
        (None, [100, 200, 300], []),
    ],
)
def test_a_state_is_kept_at_the_interval_and_after_the_last_step(
    make_request: MakeRequest, every: float | None, seconds: list[float], kept: list[int]
) -> None:
    told = Told()
    run(replace(make_request(), checkpoint_s=every), seconds, told)
    assert told.steps == kept


@pytest.mark.parametrize(("keep", "kept"), [(True, [2]), (False, [])])
def test_a_stop_says_whether_to_keep(make_request: MakeRequest, keep: bool, kept: list[int]) -> None:
    told = Told()
    with pytest.raises(StoppedError):
        run(replace(make_request(), checkpoint_s=60.0), [0.1, 0.2], told, stop=StoppedError("drain", keep=keep))
    assert told.steps == kept


def test_a_folder_that_is_gone_costs_the_checkpoint_and_not_the_clip(make_request: MakeRequest) -> None:
    request = make_request()
    request = replace(request, checkpoint_s=0.001, frames_path=request.frames_path.parent / "gone" / "clip.rgb")
    told, times = Told(), itertools.count()
    keeper = CheckpointKeeper(request, identity(request), told, lambda: float(next(times)))
    keeper.after_step(1, 1, lambda _: None, write_state_only)
    assert told.steps == []
    assert "No such file" in keeper.facts["checkpoint_failed"]


def test_only_what_fits_is_used(make_request: MakeRequest, tmp_path: Path) -> None:
    request = make_request()
    mine = identity(request)
    path = tmp_path / "state"
    write_state_only(path, metadata(3, 8, mine))
    assert json.loads(read_metadata(path, mine)["vgen"])["step"] == 3

    other_format = tmp_path / "format"
    write_state_only(other_format, {"vgen": metadata(3, 8, mine)["vgen"].replace("checkpoint/1", "checkpoint/9")})
    no_step = tmp_path / "step"
    write_state_only(no_step, metadata(9, 8, mine))
    cut = tmp_path / "cut"
    cut.write_bytes(path.read_bytes()[:20])
    cases: list[tuple[Path, Identity, str]] = [
        (path, identity(replace(request, prompt="another")), "another request"),
        (path, identity(request, threads=4, device="cuda"), "device was 'cpu' and is 'cuda', threads was 1 and is 4"),
        (other_format, mine, "format is 'vgen.checkpoint/9'"),
        (no_step, mine, "step 9 of 8"),
        (cut, mine, "cannot be read"),
        (tmp_path / "absent", mine, "cannot be read"),
    ]
    for file, who, reason in cases:
        with pytest.raises(CheckpointUnusableError, match=reason):
            read_metadata(file, who)


def state(**attributes: Any) -> LoopState:
    output = SchedulerOutput(prev_sample=torch.ones(2, dtype=torch.bfloat16))
    return LoopState(2, 5, {0: SchedulerState((torch.zeros(1), None), attributes), 2: SchedulerState(output, {})})


def test_what_a_scheduler_holds_comes_back_as_it_was(tmp_path: Path) -> None:
    held = {
        "outputs": [None, torch.arange(6.0).reshape(2, 3).t()],
        "sigma": 0.1 + 0.2,
        "infinite": float("inf"),
        "whole": 7,
        "yes": True,
        "name": "epsilon",
        "pair": (1, "two"),
        "table": {3: torch.tensor(2.5, dtype=torch.float64)},
        "array": np.linspace(0, 1, 4),
        "number": np.float32(0.3),
        "where": torch.device("cpu"),
        "kind": torch.bfloat16,
    }
    path = tmp_path / "state"
    rng = {"clip": torch.Generator().manual_seed(3).get_state()}
    write_checkpoint(path, metadata(2, 5, Identity("r", NUMERICS)), state(**held), rng)
    point = read_checkpoint(path, read_metadata(path, Identity("r", NUMERICS)), "cpu")

    assert (point.loop.step, point.loop.total, sorted(point.loop.schedulers)) == (2, 5, [0, 2])
    assert torch.equal(point.rng["clip"], rng["clip"])
    found = point.loop.schedulers[0].attributes
    assert found.keys() == held.keys()
    assert found["outputs"][0] is None
    assert torch.equal(found["outputs"][1], held["outputs"][1])
    assert torch.equal(found["table"][3], held["table"][3])
    assert found["table"][3].dtype == torch.float64
    np.testing.assert_array_equal(found["array"], held["array"])
    assert type(found["number"]) is np.float32
    plain = {"sigma", "infinite", "whole", "yes", "name", "pair", "number", "where", "kind"}
    assert {name: found[name] for name in plain} == {name: held[name] for name in plain}
    returned = point.loop.schedulers[2].returned
    assert type(returned) is SchedulerOutput
    assert returned.prev_sample.dtype == torch.bfloat16


def test_a_value_of_an_unknown_type_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedStateError, match="scheduler 0's sampler is a torch"):
        write_checkpoint(tmp_path / "state", {}, state(sampler=torch.Generator()), {})


@pytest.mark.parametrize("name", ["os:system", "diffusers.schedulers:DDIMScheduler", "diffusers.nowhere:Thing"])
def test_a_file_cannot_name_other_code(tmp_path: Path, name: str) -> None:
    path = tmp_path / "state"
    write_checkpoint(path, metadata(2, 5, Identity("r", NUMERICS)), state(), {})
    found = dict(read_metadata(path, Identity("r", NUMERICS)))
    found["loop"] = found["loop"].replace("diffusers.schedulers.scheduling_utils:SchedulerOutput", name)
    with pytest.raises(CheckpointUnusableError):
        read_checkpoint(path, found, "cpu")


def test_schedulers_of_diffusers_hold_only_what_is_known(tmp_path: Path) -> None:
    names = [
        "UniPCMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "EulerAncestralDiscreteScheduler",
        "DDIMScheduler",
    ]
    names += [
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
        "CogVideoXDPMScheduler",
        "LCMScheduler",
    ]
    for name in names:
        scheduler = getattr(diffusers, name)()
        scheduler.set_timesteps(4)
        values = {key: value for key, value in vars(scheduler).items() if key != "_internal_dict"}
        write_checkpoint(tmp_path / name, {}, LoopState(1, 4, {0: SchedulerState(None, values)}), {})
