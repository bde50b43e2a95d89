"""Weights that do not fit their class fail the load with their names, in every component and every way of loading."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.acceleration import Acceleration
from pipeline.errors import RefusedError
from pipeline.generators.base import Progress
from pipeline.generators.diffusers_video import DiffusersVideoGenerator
from pipeline.models.hub import ModelStatus, check
from pipeline.models.tiny_wan import ensure_tiny_wan
from pipeline.presets import Preset, get_preset
from tests.tiny_pipelines import TINY
from tests.unit.pipeline.generators.test_quantised import F32, write_gguf

pytestmark = [pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")]
Tensors = dict[str, torch.Tensor]


def ignore(_: Progress) -> None:
    pass


def prefixed(tensors: Tensors) -> Tensors:
    return {f"model.text.{name}": value for name, value in tensors.items()}


def without_one(tensors: Tensors) -> Tensors:
    return dict(sorted(tensors.items())[1:])


def with_another(tensors: Tensors) -> Tensors:
    return {**tensors, "added.weight": torch.zeros(2)}


def of_another_shape(tensors: Tensors) -> Tensors:
    return {**tensors, min(tensors): torch.zeros(3, 5)}


def of_whole_numbers(tensors: Tensors) -> Tensors:
    return {**tensors, min(tensors): tensors[min(tensors)].to(torch.int64)}


def of_truths(tensors: Tensors) -> Tensors:
    return {**tensors, min(tensors): tensors[min(tensors)].to(torch.bool)}


CHANGES: dict[Callable[[Tensors], Tensors], str] = {
    prefixed: "tensors are missing",
    without_one: "1 tensors are missing",
    with_another: "1 tensors have no place in it: added.weight",
    of_another_shape: "shape",
    of_whole_numbers: "1 tensors are not of floating-point numbers",
    of_truths: "1 tensors are not of floating-point numbers",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models of two families: a transformer, a VAE and a text encoder; a UNet and an image encoder."""
    base = tmp_path_factory.mktemp("models")
    TINY["svd"].save(base / "svd", base / "presets", "svd")
    return {"wan": ensure_tiny_wan(base / "wan"), "svd": base / "svd"}


def preset_of(family: str, folder: Path, **update: Any) -> Preset:
    base = {"wan": "wan2.1-t2v-1.3b", "svd": "svd-xt"}[family]
    return get_preset(base).model_copy(update={"repo": str(folder), "dtype": "float32", **update})


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize(
    ("family", "component"),
    [("wan", "transformer"), ("wan", "text_encoder"), ("wan", "vae"), ("svd", "unet"), ("svd", "image_encoder")],
)
def test_tensors_that_do_not_fit_fail_the_load_and_the_check(
    folders: dict[str, Path], tmp_path: Path, family: str, component: str, change: Callable[[Tensors], Tensors]
) -> None:
    # Given a whole file whose tensors are not those of its class
    folder = Path(shutil.copytree(folders[family], tmp_path / "model"))
    (path,) = (folder / component).glob("*.safetensors")
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    preset = preset_of(family, folder)

    # When it is loaded, and checked
    with pytest.raises(RefusedError) as caught:
        DiffusersVideoGenerator(tmp_path).load_preset(preset, ignore)
    result = check(preset, tmp_path)

    # Then both say in which component what is wrong
    assert caught.value.code == "model_damaged"
    assert CHANGES[change] in str(caught.value)
    assert f"/{component} " in str(caught.value)
    assert result.status is ModelStatus.DAMAGED
    assert CHANGES[change] in result.problems[0]
    assert result.problems[0].startswith(f"{component}: ")


def test_what_a_preset_declares_unused_is_no_difference(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["wan"], tmp_path / "model"))
    (path,) = (folder / "transformer").glob("*.safetensors")
    save_file(with_another(load_file(path)), path, metadata={"format": "pt"})
    preset = preset_of("wan", folder, unused_weights=("added.*",))
    assert check(preset, tmp_path).problems == ()


def test_a_buffer_that_the_class_computes_is_no_difference(folders: dict[str, Path], tmp_path: Path) -> None:
    # Given position ids, which older releases of transformers saved
    folder = Path(shutil.copytree(folders["svd"], tmp_path / "model"))
    (path,) = (folder / "image_encoder").glob("*.safetensors")
    tensors = {**load_file(path), "vision_model.embeddings.position_ids": torch.arange(5)[None]}
    save_file(tensors, path, metadata={"format": "pt"})
    assert check(preset_of("svd", folder), tmp_path).problems == ()


@pytest.mark.parametrize(
    ("damage", "sentence"), [("missing", "1 tensors are missing: "), ("added", "1 tensors have no place in it")]
)
def test_a_gguf_file_of_another_model_fails_the_load(
    model_cache: Path, tmp_path: Path, damage: str, sentence: str
) -> None:
    file = write_gguf(tmp_path / "other.gguf", F32, **{damage: "blocks.0.norm2.bias"})
    preset = get_preset("tiny-wan").model_copy(update={"acceleration": Acceleration(quantisation=f"gguf:{file}")})
    with pytest.raises(RefusedError, match=sentence) as caught:
        DiffusersVideoGenerator(model_cache).load_preset(preset, ignore)
    assert caught.value.code == "model_damaged"
