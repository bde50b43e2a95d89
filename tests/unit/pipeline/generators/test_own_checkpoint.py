"""A checkpoint of the user's in a folder, named by a preset of the user's, made by the real generator in its child."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import RefusedError
from pipeline.generators.base import Phase, Progress
from pipeline.generators.process.handle import GeneratorProcess
from pipeline.models.tiny_wan import build_pipeline, ensure_tiny_wan
from pipeline.presets import load_library
from pipeline.settings import Settings, load_settings
from tests.unit.pipeline.generators.conftest import MakeRequest


@pytest.fixture
def settings(tmp_path: Path, model_cache: Path) -> Settings:
    """A home whose preset ``mine`` is the folder ``ckpt``; the index of the folder names the class."""
    shutil.copytree(ensure_tiny_wan(model_cache), tmp_path / "ckpt")
    (tmp_path / "home/presets").mkdir(parents=True)
    (tmp_path / "home/presets/mine.toml").write_text(
        f"""
        model = "{tmp_path}/ckpt"
        workload = "t2v"
        dtype = "float32"
        random_weights = true
        frames = {{ multiple = 4, offset = 1, minimum = 5, maximum = 81 }}
        size = {{ multiple = 16, minimum = 32, maximum = 512 }}
        defaults = {{ width = 64, height = 48, num_frames = 9, fps = 8, num_inference_steps = 2, guidance_scale = 5 }}
        """,
        "utf-8",
    )
    return load_settings(home=tmp_path / "home", cache_dir=model_cache)


@pytest.fixture
def generator(settings: Settings) -> Iterator[GeneratorProcess]:
    with GeneratorProcess(settings) as process:
        yield process


def test_the_folders_model_makes_the_clips_until_it_is_replaced(
    settings: Settings, generator: GeneratorProcess, make_request: MakeRequest, tmp_path: Path
) -> None:
    phases: list[Phase] = []

    def note(progress: Progress) -> None:
        phases.append(progress.phase)

    digest = load_library(settings.effective_presets_dir).digest("mine")
    request = make_request("mine", preset_digest=digest)
    same = generator.generate(make_request("tiny-wan"), note)
    mine = generator.generate(request, note)
    assert mine.frames_sha256 == same.frames_sha256
    assert mine.facts["random_weights"] is True
    assert mine.model_revision.startswith("files-")

    phases.clear()
    assert generator.generate(request, note).frames_sha256 == mine.frames_sha256
    assert Phase.LOAD not in phases

    changed = build_pipeline()
    changed.transformer.proj_out.weight.data.mul_(2)
    changed.save_pretrained(tmp_path / "ckpt")
    trained = generator.generate(request, note)
    assert Phase.LOAD in phases
    assert trained.frames_sha256 != mine.frames_sha256
    assert trained.model_revision != mine.model_revision

    preset = settings.effective_presets_dir / "mine.toml"
    preset.write_text(preset.read_text("utf-8").replace("float32", "bfloat16"), "utf-8")
    with pytest.raises(RefusedError, match="differs from the one that the job was submitted with") as caught:
        generator.generate(request, note)
    assert caught.value.code == "preset_differs"
    preset.unlink()
    with pytest.raises(RefusedError, match=r"'mine' is not on this machine .looked in .*presets") as caught:
        generator.generate(request, note)
    assert caught.value.code == "preset_missing"
