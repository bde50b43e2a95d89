"""Equal frames for a request, whatever the generator did before it, beside it, or in which process it runs."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from pipeline.acceleration import PLAIN
from pipeline.errors import StoppedError
from pipeline.generators.base import GenerationResult, Phase, Progress
from pipeline.generators.diffusers_video import DiffusersVideoGenerator
from pipeline.generators.process.child import Child
from pipeline.generators.process.handle import GeneratorProcess
from pipeline.presets import Preset, get_preset
from pipeline.settings import Settings, load_settings
from pipeline.spec import InputRef, LoraRef
from tests.loras import write_lora
from tests.unit.pipeline.generators.conftest import MakeRequest

CLIP = {"seed": 3, "width": 32, "height": 32, "num_frames": 5, "num_inference_steps": 3}


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


@pytest.fixture(scope="module")
def worker(settings: Settings) -> Iterator[GeneratorProcess]:
    """A process of its own, for the whole module."""
    with GeneratorProcess(settings) as process:
        yield process


@pytest.fixture
def first(worker: GeneratorProcess, make_request: MakeRequest) -> GenerationResult:
    """The clip as that process makes it first of all."""
    if not _known:
        _known.append(worker.generate(make_request("tiny-wan", **CLIP), ignore))
    return _known[0]


_known: list[GenerationResult] = []
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


def _with_a_lora(generator: DiffusersVideoGenerator, make: MakeRequest) -> None:
    """A clip with a LoRA, which stays in memory."""
    ref = LoraRef(file=InputRef(sha256="5" * 64, media_type="x", name="a.safetensors"))
    request = make("tiny-wan", **CLIP, loras=[ref])
    generator.generate(replace(request, loras=(write_lora(request.frames_path.with_suffix(".safetensors")),)), ignore)


def _hinted(generator: DiffusersVideoGenerator, _: MakeRequest) -> None:
    """Prompts encoded ahead: another clip's, and this one's."""
    for prompt in ("of a clip that never comes", "a lighthouse at dusk"):
        generator.prepare("tiny-wan", prompt, None)


def _set_aside(generator: DiffusersVideoGenerator, _: MakeRequest) -> None:
    """Out to the host's memory and in again."""
    generator.move_to_host()
    generator.resume(ignore)


def _drawn(_: DiffusersVideoGenerator, __: MakeRequest) -> None:
    """Random numbers that somebody else drew in the process."""
    torch.rand(7)


@pytest.mark.parametrize(
    "disturb", [_nothing, _neighbours, _stopped, _continued, _loaded_again, _with_a_lora, _set_aside, _hinted, _drawn]
)
def test_what_came_before_changes_no_frame(
    first: GenerationResult, warm: DiffusersVideoGenerator, make_request: MakeRequest, disturb: Disturb
) -> None:
    disturb(warm, make_request)

    found = warm.generate(make_request("tiny-wan", **CLIP), ignore)

    assert (found.frames_sha256, found.numerics) == (first.frames_sha256, first.numerics)


def test_another_seed_and_another_prompt_make_other_frames(
    first: GenerationResult, warm: DiffusersVideoGenerator, make_request: MakeRequest
) -> None:
    others = [{"seed": 8}, {"prompt": "a train"}]
    made = [warm.generate(make_request("tiny-wan", **{**CLIP, **other}), ignore).frames_sha256 for other in others]

    assert len({first.frames_sha256, *made}) == 3


def test_two_processes_side_by_side_make_the_frames_of_one_alone(
    first: GenerationResult, warm: DiffusersVideoGenerator, worker: GeneratorProcess, make_request: MakeRequest
) -> None:
    # Given a generator in the middle of another clip
    found: list[str] = []

    def beside(progress: Progress) -> None:
        if progress.phase is Phase.DENOISE and progress.step == 1 and not found:
            found.append(worker.generate(make_request("tiny-wan", **CLIP), ignore).frames_sha256)

    # When a worker beside it makes the clip
    warm.generate(make_request("tiny-wan", **{**CLIP, "seed": 5, "num_frames": 9}), beside)

    assert found == [first.frames_sha256]


def test_a_model_that_waited_in_the_hosts_memory_is_the_same_one_and_makes_the_same_frames(
    first: GenerationResult, settings: Settings, make_request: MakeRequest
) -> None:
    child, one = Child(io.StringIO(), settings.effective_cache_dir), get_preset("tiny-wan")
    two = one.model_copy(update={"name": "tiny-two"})

    def load(preset: Preset, host_cache_bytes: int | None = None) -> str:
        command = {"preset": preset.model_dump(mode="json"), "acceleration": {}, "files": []}
        return child._load(preset, PLAIN, {**command, "lora_bytes": 0, "host_cache_bytes": host_cache_bytes}, ignore)

    assert load(one) == "disk"
    waiting = child._generator
    size = waiting.host_bytes()
    assert 100_000 < size < 10_000_000
    assert load(two) == "disk"
    assert load(one) == "host"
    assert child._generator is waiting
    assert waiting.generate(make_request("tiny-wan", **CLIP), ignore).frames_sha256 == first.frames_sha256
    # What is asked of it meanwhile goes before a hint
    known = []
    for prompt in ("ahead", "late"):
        child._prepare({"preset": "tiny-wan", "prompt": prompt, "negative_prompt": None})
        known.append(waiting.generate(make_request("tiny-wan", **CLIP, prompt=prompt), ignore).facts["prompt_known"])
        child._commands.put({})
    assert known == [True, False]
    # Without room for it the next one to leave is gone, and what waits stays
    assert load(two, size - 1) == "host"
    assert child._waiting.keys == ()
    assert load(one, size) == "disk"
    assert len(child._waiting.keys) == 1
    assert load(two, 0) == "host"
    assert child._waiting.keys == ()
