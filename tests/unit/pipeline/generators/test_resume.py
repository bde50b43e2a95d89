"""Stopped after every step and gone on in another process, a clip has the frames of an undisturbed run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import StoppedError
from pipeline.generators.base import GenerationRequest, GenerationResult, Phase, Progress, SavedCheckpoint
from pipeline.generators.diffusers_video import DiffusersVideoGenerator
from pipeline.generators.process.handle import GeneratorProcess
from pipeline.presets import load_library
from pipeline.settings import Settings, load_settings
from pipeline.spec import JobSpec
from tests.tiny_pipelines import TINY, TINY_INPUTS
from tests.unit.pipeline.generators.conftest import MakeRequest
from tests.videos import write_video

pytestmark = [
    # diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is about to drop; not ours to mend.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    # Mochi's transformer asks for autocast to float32, which a CPU computes in anyway.
    pytest.mark.filterwarnings("ignore:In CPU autocast, but the target dtype is not supported"),
]

STEPS = 3
ALL = TINY | TINY_INPUTS


class Kept:
    """Moves each checkpoint to where the frames' folder cannot lose it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(exist_ok=True)
        self.by_step: dict[int, SavedCheckpoint] = {}
        self.refused: list[str] = []

    def saved(self, checkpoint: SavedCheckpoint) -> None:
        path = self.folder / checkpoint.path.name
        shutil.move(checkpoint.path, path)
        self.by_step[checkpoint.step] = replace(checkpoint, path=path)

    def unusable(self, reason: str) -> None:
        self.refused.append(reason)


def ignore(_: Progress) -> None:
    pass


def stop_at(step: int) -> object:
    def on_progress(progress: Progress) -> None:
        if progress.phase is Phase.DENOISE and progress.step == step:
            raise StoppedError("drain", keep=True)

    return on_progress


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings(home=tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def fresh(settings: Settings) -> Iterator[GeneratorProcess]:
    """The child in which clips go on; it never saw them begin."""
    with GeneratorProcess(settings) as process:
        yield process


def request_for(name: str, settings: Settings, make_request: MakeRequest, tmp_path: Path) -> GenerationRequest:
    tiny, presets = ALL[name], settings.effective_presets_dir
    if not (presets / f"{name}.toml").exists():
        tiny.save(settings.home / name, presets, name)
    digest = load_library(presets).digest(name)
    request = make_request(name, num_inference_steps=STEPS, preset_digest=digest, **tiny.clip)
    return replace(request, **{field: made_input(field, request, tmp_path) for field in tiny.inputs})


def made_input(field: str, request: GenerationRequest, folder: Path) -> Path | tuple[Path, ...]:
    path = folder / f"{field}.{'mp4' if field == 'video' else 'png'}"
    gradient = Image.linear_gradient("L").convert("RGB")
    if field == "video":
        write_video(path, [gradient.rotate(30 * turn) for turn in range(request.spec.num_frames)])
        return path
    (gradient.rotate(90) if field == "last_image" else gradient).save(path)
    return (path, path) if field == "reference_images" else path


def again(request: GenerationRequest, path: Path, number: int) -> GenerationRequest:
    """The same clip to another file, from this checkpoint."""
    frames = request.frames_path.with_name(f"again-{number}.rgb")
    frames.write_bytes(bytes(request.frames_path.stat().st_size))
    return replace(request, frames_path=frames, resume_from=path)


CACHES = {
    "first_block": {"kind": "first_block", "threshold": 1.0},
    "taylorseer": {"kind": "taylorseer", "interval": 2, "warm_up": 1},
    "mag_cache": {"kind": "mag_cache", "ratios": [1.0] * STEPS, "max_skip": 1},
    "pyramid_attention": {"kind": "pyramid_attention", "timestep_low": 0, "timestep_high": 1000},
}


@pytest.mark.parametrize("cache", CACHES)
def test_with_a_step_cache_too(
    cache: str, settings: Settings, fresh: GeneratorProcess, make_request: MakeRequest, tmp_path: Path
) -> None:
    # What a cache remembers from the steps before decides the steps that follow.
    request = request_for("wan-unipc", settings, make_request, tmp_path)
    plain = request.spec
    spec = JobSpec.model_validate({**plain.model_dump(), "acceleration": {"step_cache": CACHES[cache]}})
    resumed_after_every_step(replace(request, spec=spec, checkpoint_s=0.0), settings, fresh, tmp_path)


@pytest.mark.parametrize("name", ALL)
def test_stopped_after_every_step_and_resumed_in_another_process_the_frames_are_equal(
    name: str, settings: Settings, fresh: GeneratorProcess, make_request: MakeRequest, tmp_path: Path
) -> None:
    request = request_for(name, settings, make_request, tmp_path)
    resumed_after_every_step(replace(request, checkpoint_s=0.0), settings, fresh, tmp_path)


def resumed_after_every_step(
    request: GenerationRequest, settings: Settings, fresh: GeneratorProcess, tmp_path: Path
) -> None:
    # Given an undisturbed clip, and the same clip stopped after each of its steps
    generator = DiffusersVideoGenerator(settings.effective_cache_dir)
    generator.load_preset(load_library(settings.effective_presets_dir).get(request.spec.preset), ignore)
    undisturbed = generator.generate(request, ignore)
    total = undisturbed.facts["denoise_steps"]
    assert total >= STEPS
    kept = Kept(tmp_path / "kept")
    for step in range(1, total + 1):
        with pytest.raises(StoppedError):
            generator.generate(request, stop_at(step), kept)
    assert sorted(kept.by_step) == list(range(1, total + 1))
    generator.unload()

    # When a process that has seen none of it goes on from each
    results: dict[int, GenerationResult] = {}
    for step, checkpoint in kept.by_step.items():
        results[step] = fresh.generate(again(request, checkpoint.path, step), ignore, kept)

    # Then every clip is the undisturbed one, at the cost of the steps that were left and one model call
    assert kept.refused == []
    assert {step: result.frames_sha256 for step, result in results.items()} == dict.fromkeys(
        results, undisturbed.frames_sha256
    )
    assert {step: result.sound for step, result in results.items()} == dict.fromkeys(results, undisturbed.sound)
    assert (undisturbed.sound is None) == (not request.spec.preset.startswith("ltx2"))
    assert {step: result.facts["denoise_steps"] for step, result in results.items()} == {
        step: total - step + 1 for step in results
    }
    assert all(result.facts["resumed_from_step"] == step for step, result in results.items())
