"""What the preset's class does not take is refused when the file is read, by the code that the worker runs."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
from PIL import Image

from pipeline.errors import InputError
from pipeline.presets import all_presets
from pipeline.presets.signatures import call_signature, signature_of
from pipeline.prompts import parse
from pipeline.settings import load_settings

PIPELINES = sorted({preset.pipeline_class for preset in all_presets().values() if preset.generator == "diffusers"})
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("wan2.1-t2v-1.3b", {"guidance_scale_2": 3}, "guidance_scale_2: 3 is given, but the model of preset"),
    ("ltx-video", {"guidance_scale_2": 3}, "guidance_scale_2: 3.0 is given, but LTXPipeline takes none"),
    ("svd-xt", {"image": "image.png", "negative_prompt": "dull"}, "negative_prompt: 'dull' is given, but Stable"),
    ("svd-xt", {"image": "image.png", "fps": 23.976}, "fps: 23.976 is not a whole number"),
    ("svd-xt", {"image": "image.png", "fps": 7.5}, "use 7 or 8"),
    ("mochi-1", {"guidance_scale_2": 1}, "guidance_scale_2: 1.0 is given, but MochiPipeline takes none"),
]
RIGHT: list[tuple[str, dict[str, Any]]] = [
    ("wan2.2-t2v-a14b", {"guidance_scale_2": 3}),
    ("wan2.1-t2v-1.3b", {"negative_prompt": "dull", "guidance_scale": 4}),
    ("svd-xt", {"image": "image.png", "fps": 7}),
    ("hunyuan-video-1.5", {"guidance_scale": 5}),
    ("ltx-2", {"fps": 23.976}),
]


def read(folder: Path, preset: str, fields: dict[str, Any]) -> None:
    Image.new("RGB", (64, 64)).save(folder / "image.png")
    file = folder / "p.jsonl"
    file.write_text(json.dumps({"prompt": "x", "preset": preset, **fields}), "utf-8")
    parse(file, overrides={}, settings=load_settings(home=folder / "home", presets_dir=folder / "presets"))


@pytest.mark.parametrize(("preset", "fields", "sentence"), CASES)
def test_a_field_that_the_class_does_not_take_is_refused(
    tmp_path: Path, preset: str, fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, preset, fields)
    assert len(caught.value.problems) == 1
    assert sentence in str(caught.value)


@pytest.mark.parametrize(("preset", "fields"), RIGHT)
def test_a_field_that_it_takes_is_accepted(tmp_path: Path, preset: str, fields: dict[str, Any]) -> None:
    read(tmp_path, preset, fields)


@pytest.mark.parametrize(("boundary", "refused"), [("null", True), ("0.9", False), ("", False)])
def test_an_own_models_index_says_how_many_denoisers_it_has(tmp_path: Path, boundary: str, refused: bool) -> None:
    model = tmp_path / "model"
    model.mkdir()
    entry = f', "boundary_ratio": {boundary}' if boundary else ""
    (model / "model_index.json").write_text(f'{{"_class_name": "WanPipeline"{entry}}}', "utf-8")
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets/own.toml").write_text(f'extends = "wan2.1-t2v-1.3b"\nmodel = "{model}"\n', "utf-8")
    if refused:
        with pytest.raises(InputError, match="guidance_scale_2"):
            read(tmp_path, "own", {"guidance_scale_2": 3})
    else:
        read(tmp_path, "own", {"guidance_scale_2": 3})


@pytest.mark.parametrize("name", sorted({*PIPELINES, "SkyReelsV2Pipeline", "AllegroPipeline", "HunyuanVideoPipeline"}))
def test_a_class_is_read_from_its_source_as_it_is_in_memory(name: str) -> None:
    cls = getattr(diffusers, name)
    made_with = inspect.signature(cls.__init__).parameters
    in_memory = signature_of(cls.__call__, has_guider="guider" in made_with, has_boundary="boundary_ratio" in made_with)
    assert call_signature(name) == in_memory


@pytest.mark.parametrize("name", ["NoSuchPipeline", "", "a b", "x" * 500, "(", "AutoencoderKLWan"])
def test_a_name_that_is_no_pipeline_is_left_to_the_worker(name: str) -> None:
    assert call_signature(name) is None


def test_no_library_of_models_is_loaded_for_it() -> None:
    code = (
        "import sys; from pipeline.presets.signatures import call_signature; assert call_signature('WanPipeline');"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
