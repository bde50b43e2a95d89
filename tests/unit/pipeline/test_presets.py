"""The catalogue: its files, rules and defaults agree with each other and with diffusers' real classes."""

from __future__ import annotations

import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipeline.errors import NotFoundError
from pipeline.generators.call_arguments import call_arguments
from pipeline.models.hub import SHIPPED
from pipeline.models.pipeline_class import pipeline_class
from pipeline.presets import FrameRule, Preset, SizeRule, Workload, all_presets, get_preset
from pipeline.presets.preset import CATALOGUE
from pipeline.spec import JobSpec

PRESETS = list(all_presets().values())
PUBLISHED = [preset for preset in PRESETS if not preset.random_weights and preset.repo not in SHIPPED]
BY_NAME = pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)


def test_files_are_named_after_their_presets() -> None:
    assert {path.stem for path in CATALOGUE.glob("*.toml")} == set(all_presets())


def test_models_that_must_be_here() -> None:
    assert set(all_presets()) >= {
        *("wan2.1-t2v-1.3b", "wan2.1-t2v-14b", "wan2.2-ti2v-5b", "wan2.2-t2v-a14b", "ltx-video", "ltx-2"),
        *("hunyuan-video-1.5", "cogvideox-2b", "cogvideox-5b", "mochi-1", "svd-xt", "tiny-wan"),
        *("shapes-wan", "shapes-wan-i2v"),
    }


@BY_NAME
def test_defaults_obey_the_rules(preset: Preset) -> None:
    assert preset.contradictions() == []


@pytest.mark.parametrize("preset", PUBLISHED, ids=lambda preset: preset.name)
def test_every_published_value_stands_below_its_source(preset: Preset) -> None:
    lines = (CATALOGUE / f"{preset.name}.toml").read_text("utf-8").splitlines()
    for key in ("repo = ", "pipeline_class = ", "dtype = ", "[frames]", "[size]", "width = "):
        at = next(number for number, line in enumerate(lines) if line.startswith(key))
        assert lines[at - 1].startswith("# "), f"{key} has no source above it"
    assert sum("https://" in line for line in lines) >= 3
    if preset.licence is not None:
        at = next(number for number, line in enumerate(lines) if line.startswith("licence = "))
        assert "https://" in lines[at - 1]


@BY_NAME
def test_memory_need_has_a_source_or_is_unknown(preset: Preset) -> None:
    assert (preset.memory_gib is None) == (preset.memory_source is None)


@pytest.mark.parametrize(
    ("rule", "given", "nearest"),
    [
        (FrameRule(multiple=4, offset=1, minimum=5, maximum=81), 80, [77, 81]),
        (FrameRule(multiple=4, offset=1, minimum=5, maximum=81), 82, [81]),
        (FrameRule(multiple=4, offset=1, minimum=5, maximum=81), 500, [81]),
        (FrameRule(multiple=4, offset=1, minimum=5, maximum=81), 1, [5]),
        (FrameRule(multiple=6, offset=1, minimum=7, maximum=163), 84, [79, 85]),
    ],
)
def test_nearest_frame_counts(rule: FrameRule, given: int, nearest: list[int]) -> None:
    assert not rule.allows(given)
    assert rule.nearest(given) == nearest


@pytest.mark.parametrize(("given", "nearest"), [(481, [480, 496]), (1281, [1280]), (4000, [1280]), (5, [128])])
def test_nearest_sides(given: int, nearest: list[int]) -> None:
    rule = SizeRule(multiple=16, minimum=128, maximum=1280)
    assert not rule.allows(given)
    assert rule.nearest(given) == nearest


def test_unknown_preset_names_the_known() -> None:
    with pytest.raises(NotFoundError, match=r"'wan-9' is unknown; known: .*tiny-wan"):
        get_preset("wan-9")


def test_toml_has_no_unknown_field() -> None:
    data = tomllib.loads((CATALOGUE / "tiny-wan.toml").read_text("utf-8"))
    with pytest.raises(ValueError, match="colour"):
        Preset.model_validate({**data, "colour": "red"})


def test_reading_the_catalogue_loads_no_torch() -> None:
    code = "import sys; from pipeline.presets import all_presets; all_presets(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("preset", [p for p in PRESETS if p.generator == "diffusers"], ids=lambda preset: preset.name)
def test_class_exists_and_takes_the_defaults(preset: Preset) -> None:
    cls = pipeline_class(preset.pipeline_class)
    spec = JobSpec(prompt="p", seed=0, preset=preset.name, **preset.defaults.model_dump())
    inputs = {field: object() for field in preset.inputs}
    if preset.workload is not Workload.T2V:
        inputs["video" if preset.workload is Workload.V2V else "image"] = object()
    has_guider = "guider" in inspect.signature(cls.__init__).parameters
    arguments = call_arguments(cls.__call__, preset, spec, "p", inputs, has_guider=has_guider)
    assert arguments.get("num_frames", preset.defaults.num_frames) == preset.defaults.num_frames
    assert "num_frames" in arguments or preset.workload is Workload.V2V
    assert set(arguments) <= set(inspect.signature(cls.__call__).parameters)
    assert ("prompt" in arguments) == preset.takes_prompt


def test_every_preset_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs/models.md").read_text("utf-8")
    for preset in PRESETS:
        assert f"`{preset.name}`" in text, preset.name
        if not preset.random_weights:
            assert f"`{preset.repo}` | `{preset.pipeline_class}`" in text, preset.name
