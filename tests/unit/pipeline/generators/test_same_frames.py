"""Equal frames for a request, whatever the generator did before it, beside it, or in which process it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from pipeline.errors import StoppedError
from pipeline.generators.base import GenerationRequest, Phase, Progress
from pipeline.generators.diffusers_video import DiffusersVideoGenerator
from pipeline.generators.process import GeneratorProcess
from pipeline.settings import Settings, load_settings
from tests.unit.pipeline.generators.conftest import MakeRequest

CLIP = {"seed": 3, "width": 32, "height": 32, "num_frames": 5, "num_inference_steps": 3}

pytestmark = pytest.mark.usefixtures("one_thread")


def ignore(_: Progress) -> None:
    pass


def stop(progress: Progress) -> None:
    if progress.phase is Phase.DENOISE and progress.step == 2:
        raise StoppedError("cancel")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings(home=tmp_path_factory.mktemp("same"))


@pytest.fixture(scope="module")
def warm(settings: Settings) -> DiffusersVideoGenerator:
    generator = DiffusersVideoGenerator(settings.effective_cache_dir)
    generator.load("tiny-wan", ignore)
    return generator


Disturb = Callable[[DiffusersVideoGenerator, MakeRequest], None]


def _nothing(_: DiffusersVideoGenerator, __: MakeRequest) -> None:
    """The same request once more."""


def _neighbours(generator: DiffusersVideoGenerator, make: MakeRequest) -> None:
    """Clips of other sizes, lengths, steps, guidance and prompts."""
    for changes in ({"num_frames": 9, "guidance_scale": 1.0}, {"width": 48, "num_inference_steps": 5, "prompt": "雨"}):
        generator.generate(make("tiny-wan", **{**CLIP, "seed": 99, **changes}), ignore)


def _stopped(generator: DiffusersVideoGenerator, make: MakeRequest) -> None:
    """A clip that was cancelled within."""
    with pytest.raises(StoppedError):
        generator.generate(make("tiny-wan", **CLIP), stop)


def _continued(generator: DiffusersVideoGenerator, make: MakeRequest) -> None:
    """A segment that goes on from another: its pipeline shares the scheduler."""
    request = make("tiny-wan", **CLIP)
    last = request.frames_path.with_suffix(".last")
    last.write_bytes(bytes(32 * 32 * 3))
    request.frames_path.write_bytes(bytes(4 * 32 * 32 * 3))
    generator.generate(replace(request, previous=last, repeats=1), ignore)


def _loaded_again(generator: DiffusersVideoGenerator, _: MakeRequest) -> None:
    """Out of memory and in again, as where presets take turns on a GPU."""
    generator.unload()
    generator.load("tiny-wan", ignore)


def _drawn(_: DiffusersVideoGenerator, __: MakeRequest) -> None:
    """Random numbers that somebody else drew in the process."""
    torch.rand(7)


@pytest.mark.parametrize("disturb", [_nothing, _neighbours, _stopped, _continued, _loaded_again, _drawn])
def test_what_came_before_changes_no_frame(
    warm: DiffusersVideoGenerator, settings: Settings, make_request: MakeRequest, disturb: Disturb
) -> None:
    expected = _fresh(settings, make_request("tiny-wan", **CLIP))

    disturb(warm, make_request)

    assert warm.generate(make_request("tiny-wan", **CLIP), ignore).frames_sha256 == expected


_known: dict[str, str] = {}


def _fresh(settings: Settings, request: GenerationRequest) -> str:
    """The frames that a process of its own makes of the request first of all."""
    if not _known:
        with GeneratorProcess(settings) as process:
            _known["clip"] = process.generate(request, ignore).frames_sha256
    return _known["clip"]


def test_two_processes_side_by_side_make_the_frames_of_one_alone(
    warm: DiffusersVideoGenerator, settings: Settings, make_request: MakeRequest
) -> None:
    # Given a generator in the middle of another clip
    expected = _fresh(settings, make_request("tiny-wan", **CLIP))
    found: list[str] = []
    with GeneratorProcess(settings) as worker:

        def beside(progress: Progress) -> None:
            if progress.phase is Phase.DENOISE and progress.step == 1 and not found:
                found.append(worker.generate(make_request("tiny-wan", **CLIP), ignore).frames_sha256)

        # When a worker beside it makes the clip
        warm.generate(make_request("tiny-wan", **{**CLIP, "seed": 5, "num_frames": 9}), beside)

    assert found == [expected]
