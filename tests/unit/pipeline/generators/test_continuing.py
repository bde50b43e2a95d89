"""Segments that go on from the one before, with the real pipeline classes at tiny size."""

from __future__ import annotations

import inspect
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import StoppedError
from pipeline.generators.base import GenerationRequest, Phase, Progress, SavedCheckpoint
from pipeline.generators.diffusers_video import DiffusersVideoGenerator
from pipeline.generators.frames_file import frames_size
from pipeline.models.pipeline_class import pipeline_class
from pipeline.presets import all_presets, load_library
from pipeline.settings import Settings, load_settings
from tests.tiny_pipelines import TINY, TinyPipeline, ltx
from tests.unit.pipeline.generators.conftest import MakeRequest

# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is about to drop; not ours to mend.
pytestmark = [pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")]

SIZE = {"width": 32, "height": 32, "fps": 8, "guidance_scale": 3.0, "num_inference_steps": 3}
_LONG = {"width": 32, "height": 32, "num_frames": 25}
LONG = {
    "long-ltx": TinyPipeline("ltx-video", ltx, _LONG),
    "long-ltx2": TinyPipeline("ltx-2", TINY["ltx2"].build, _LONG, TINY["ltx2"].preset),
}
CASES = {"tiny-wan": 1, "wan-image": 1, "long-ltx": 9, "long-ltx2": 9}
"""Presets, and how many frames each goes on from."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings(home=tmp_path_factory.mktemp("continuing"))


def loaded(name: str, settings: Settings) -> DiffusersVideoGenerator:
    presets = settings.effective_presets_dir
    tiny = LONG.get(name, TINY.get(name))
    if tiny is not None and not (presets / f"{name}.toml").exists():
        tiny.save(settings.home / name, presets, name)
    generator = DiffusersVideoGenerator(settings.effective_cache_dir)
    generator.load_preset(load_library(presets).get(name), ignore)
    return generator


def ignore(_: Progress) -> None:
    pass


def next_segment(name: str, make_request: MakeRequest, tmp_path: Path, **changes: Any) -> GenerationRequest:
    """A request to go on from noise of the right size: what it is of does not matter to the pipeline."""
    repeats = CASES[name]
    request = make_request(name, **SIZE, num_frames=25 if repeats > 1 else 9, **changes)
    previous = tmp_path / "last.frames"
    previous.write_bytes(np.random.default_rng(1).bytes(repeats * 32 * 32 * 3))
    request.frames_path.write_bytes(bytes(frames_size(request.spec) - repeats * 32 * 32 * 3))
    return replace(request, previous=previous, repeats=repeats)


@pytest.mark.parametrize("name", CASES)
def test_the_tensor_that_a_segment_is_conditioned_on_is_the_last_frames_of_the_one_before(
    name: str, settings: Settings, make_request: MakeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a pipeline whose encoder of pictures is watched
    generator = loaded(name, settings)
    request = next_segment(name, make_request, tmp_path)
    seen: list[torch.Tensor] = []
    encode = generator._continuing.vae.encode

    def watched(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(tensor.clone())
        return encode(tensor, *args, **kwargs)

    monkeypatch.setattr(generator._continuing.vae, "encode", watched)

    # When a segment goes on from given frames
    result = generator.generate(request, ignore)

    # Then they reach the encoder exactly (B × 3 × F × H × W in [-1, 1]), and are not written once more
    assert request.previous is not None
    given = np.frombuffer(request.previous.read_bytes(), np.uint8).reshape(CASES[name], 32, 32, 3)
    taken = seen[0][0, :, : CASES[name]].permute(1, 2, 3, 0)
    assert np.array_equal(((taken + 1) * 127.5).round().numpy(), given)
    assert result.num_frames == request.spec.num_frames - CASES[name]


def test_a_segment_that_goes_on_is_another_clip_and_its_own_at_every_run(
    settings: Settings, make_request: MakeRequest, tmp_path: Path
) -> None:
    generator = loaded("tiny-wan", settings)
    request = next_segment("tiny-wan", make_request, tmp_path)
    alone = make_request("tiny-wan", **SIZE, num_frames=9)

    first, second = (generator.generate(request, ignore).frames_sha256 for _ in range(2))
    whole = generator.generate(alone, ignore)

    assert first == second
    frame = 32 * 32 * 3
    assert alone.frames_path.read_bytes()[frame:] != request.frames_path.read_bytes()
    assert whole.num_frames == 9


@pytest.mark.parametrize("name", ["tiny-wan", "long-ltx", "long-ltx2"])
def test_a_segment_is_resumed_from_each_of_its_steps_with_equal_frames(
    name: str, settings: Settings, make_request: MakeRequest, tmp_path: Path
) -> None:
    generator = loaded(name, settings)
    request = replace(next_segment(name, make_request, tmp_path), checkpoint_s=0.0)
    undisturbed = generator.generate(request, ignore).frames_sha256

    for step in (1, 2, 3):
        kept = Kept(tmp_path / f"{step}.kept")
        with pytest.raises(StoppedError):
            generator.generate(request, kept.stop_at(step), kept)
        resumed = generator.generate(replace(request, resume_from=kept.path), ignore, kept)
        assert kept.refused == []
        assert (resumed.facts["resumed_from_step"], resumed.frames_sha256) == (step, undisturbed)


def test_a_checkpoint_does_not_fit_a_segment_that_goes_on_from_other_frames(
    settings: Settings, make_request: MakeRequest, tmp_path: Path
) -> None:
    generator = loaded("tiny-wan", settings)
    request = replace(next_segment("tiny-wan", make_request, tmp_path), checkpoint_s=0.0)
    kept = Kept(tmp_path / "kept")
    with pytest.raises(StoppedError):
        generator.generate(request, kept.stop_at(2), kept)

    assert request.previous is not None
    request.previous.write_bytes(bytes(32 * 32 * 3))
    result = generator.generate(replace(request, resume_from=kept.path), ignore, kept)

    assert "resumed_from_step" not in result.facts
    assert len(kept.refused) == 1


def test_no_class_of_the_catalogue_takes_what_a_segment_left_as_latents() -> None:
    """``latents`` are the noise to begin with. Should one grow an argument for more, decision 0009 is to change."""
    presets = [preset for preset in all_presets().values() if preset.generator == "diffusers"]
    names = {preset.pipeline_class for preset in presets}
    names |= {preset.continuation.pipeline_class for preset in presets if preset.continuation} - {None}
    taken = {
        argument
        for name in names
        for argument in inspect.signature(pipeline_class(str(name)).__call__).parameters
        if "latents" in argument
    }
    assert taken == {"latents", "audio_latents"}


class Kept:
    """Takes the one checkpoint of a stopped clip."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.refused: list[str] = []

    def saved(self, checkpoint: SavedCheckpoint) -> None:
        shutil.move(checkpoint.path, self.path)

    def unusable(self, reason: str) -> None:
        self.refused.append(reason)

    def stop_at(self, step: int) -> Any:
        def on_progress(progress: Progress) -> None:
            if progress.phase is Phase.DENOISE and progress.step == step:
                raise StoppedError("drain", keep=True)

        return on_progress
