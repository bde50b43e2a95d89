"""What is missing or damaged in a model's folder is named by the headers alone, however the files came to be so."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.files.safetensors_header import read_header
from pipeline.models.hub import check
from pipeline.models.model_files import folder_problems
from pipeline.models.tiny_wan import ensure_tiny_wan
from pipeline.presets import get_preset
from tests.safetensors_bytes import file_bytes

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_tiny_wan(tmp_path_factory.mktemp("models"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def write(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20_000])


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("../../blobs/gone")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (write(b""), "is empty"),
    "git-LFS pointer": (write(LFS), "is a git-LFS pointer"),
    "web page": (write(b"\n<!DOCTYPE html><html>404</html>"), "is a web page"),
    "cut": (cut, "is cut"),
    "cut in its header": (lambda path: path.write_bytes(path.read_bytes()[:100]), "is cut"),
    "a few bytes": (write(b"abc"), "is cut"),
    "longer than its tensors": (
        lambda path: path.write_bytes(path.read_bytes() + b"more"),
        "has bytes behind its tensors",
    ),
    "huge header": (write(b"\xff" * 64), "is not a safetensors file"),
    "zeros": (write(bytes(4096)), "is cut"),
    "deep JSON": (write(file_bytes(b"[" * 200_000)), "is not a safetensors file"),
    "a list": (write(file_bytes(b"[]")), "is not a JSON object"),
    "a tensor twice": (
        write(file_bytes(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{}}')),
        "'a' is there twice",
    ),
    "another type": (
        write(file_bytes(b'{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,1]}}', b"x")),
        "the entry of 'a' is wrong",
    ),
    "shape and bytes differ": (
        write(file_bytes(b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,4]}}', b"1234")),
        "the entry of 'a' is wrong",
    ),
    "digits without end": (
        write(file_bytes(b'{"a":{"dtype":"F32","shape":[' + b"9" * 9000 + b'],"data_offsets":[0,4]}}', b"1234")),
        "is not a safetensors file",
    ),
    "overlapping tensors": (
        write(
            file_bytes(
                b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],'
                b'"data_offsets":[1,3]}}',
                b"abc",
            )
        ),
        "tensors overlap",
    ),
    "link to nothing": (link_to_nothing, "is a broken link"),
    "named pipe": (pipe, "is not a regular file"),
    "gone": (lambda path: path.unlink(), "has no weights"),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("component", ["transformer", "text_encoder", "vae"])
def test_a_damaged_file_is_named_with_what_is_wrong(folder: Path, component: str, kind: str) -> None:
    (path,) = (folder / component).glob("*.safetensors")
    damage, sentence = DAMAGE[kind]
    damage(path)

    (problem,) = folder_problems(folder)

    assert problem.startswith(f"{component}: ")
    assert sentence in problem
    assert str(path) in problem or kind == "gone"


def test_a_whole_folder_has_no_problem(whole: Path) -> None:
    assert folder_problems(whole) == []
    assert folder_problems(whole, half=True) == []


def shard(folder: Path) -> tuple[Path, dict[str, str]]:
    """The transformer's weights in two files and an index, as large models come."""
    part = folder / "transformer"
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    files = {"one.safetensors": names[:5], "two.safetensors": names[5:]}
    for file, own in files.items():
        save_file({name: tensors[name] for name in own}, part / file)
    return part, {name: file for file, own in files.items() for name in own}


def write_index(part: Path, weight_map: object) -> None:
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (part / "diffusion_pytorch_model.safetensors.index.json").write_text(index, "utf-8")


def test_shards_are_compared_with_their_index(folder: Path) -> None:
    part, weight_map = shard(folder)
    write_index(part, weight_map)
    assert folder_problems(folder) == []

    write_index(part, {**weight_map, "lost.weight": "one.safetensors", "b": "three.safetensors"})
    assert any("three.safetensors is missing" in problem for problem in folder_problems(folder))

    write_index(part, {**weight_map, "lost.weight": "one.safetensors"})
    assert "1 tensors of the index are not in their files: lost.weight" in folder_problems(folder)[0]

    write_index(part, dict(list(weight_map.items())[1:]))
    assert "1 tensors are in no index" in folder_problems(folder)[0]

    save_file({next(iter(weight_map)): torch.zeros(2), **load_file(part / "two.safetensors")}, part / "two.safetensors")
    write_index(part, weight_map)
    assert "1 tensors are in several files" in folder_problems(folder)[0]


@pytest.mark.parametrize("weight_map", [None, [], {"a": 3}, {"a": "../vae/config.json"}, {"a": "/etc/passwd"}])
def test_an_index_that_leads_elsewhere_is_told(folder: Path, weight_map: object) -> None:
    part, _ = shard(folder)
    write_index(part, weight_map)
    (problem,) = folder_problems(folder)
    assert "index.json" in problem


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"_class_name": ["own_pipeline", "Own"]}, "names code in the model's folder"),
        ({"../vae": ["diffusers", "AutoencoderKLWan"]}, "is not a valid name of a component"),
        ({"vae": ["diffusers"]}, "is not a pair"),
        ({"vae2": ["diffusers", "AutoencoderKLWan"]}, "vae2: folder"),
    ],
)
def test_an_index_of_another_form_is_told(folder: Path, entry: dict[str, object], sentence: str) -> None:
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    (folder / "model_index.json").write_text(json.dumps({**index, **entry}), "utf-8")
    assert sentence in folder_problems(folder)[0]


@pytest.mark.parametrize("name", ["modeling_own.py", "adapter_config.json"])
def test_what_would_change_a_class_is_told(folder: Path, name: str) -> None:
    (folder / "text_encoder" / name).write_text("{}", "utf-8")
    assert f"text_encoder/{name} is there" in folder_problems(folder)[0]


def test_a_configuration_that_is_cut_is_told(folder: Path) -> None:
    (folder / "vae/config.json").write_text('{"a": ', "utf-8")
    assert "vae/config.json is not JSON" in folder_problems(folder)[0]


def test_a_header_of_the_library_is_read_as_the_library_reads_it(whole: Path) -> None:
    for path in whole.rglob("*.safetensors"):
        assert read_header(path).shapes == {name: tuple(value.shape) for name, value in load_file(path).items()}


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (write(LFS), "is a git-LFS pointer"),
        (write(b"<html>404"), "is a web page"),
        (write(b""), "is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "is not JSON, or cut"),
        (pipe, "is empty or unreadable"),
        (link_to_nothing, "is a broken link"),
    ],
)
def test_a_damaged_vocabulary_is_named(folder: Path, damage: Callable[[Path], object], sentence: str) -> None:
    path = folder / "tokenizer/tokenizer.json"
    damage(path)
    (problem,) = folder_problems(folder)
    assert problem.startswith(f"tokenizer: file {path} ")
    assert sentence in problem


def test_a_class_of_more_layers_than_there_are_tensors_is_never_built(folder: Path) -> None:
    path = folder / "transformer/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_layers": 10**9}), "utf-8")
    (problem,) = folder_problems(folder)
    assert problem == f"transformer: file {path}: num_layers is 1000000000, and the files have 69 tensors"


def without_vocabulary(folder: Path) -> None:
    (folder / "tokenizer/tokenizer.json").unlink()


def with_odd_schedule(folder: Path) -> None:
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_train_timesteps": "many"}), "utf-8")


def index_with(**entries: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "model_index.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}), "utf-8")

    return change


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (without_vocabulary, "tokenizer: cannot be loaded as "),
        (with_odd_schedule, "scheduler: cannot be loaded as UniPCMultistepScheduler"),
        (index_with(transformer=[None, None]), "has no transformer or transformer_2, which WanPipeline needs"),
        (index_with(transformer="WanTransformer3DModel"), "has no transformer or transformer_2"),
        (index_with(tokenizer=[None, None]), "has no tokenizer, which WanPipeline needs"),
        (index_with(text_encoder=[None, None]), "has no text_encoder, which WanPipeline needs"),
    ],
)
def test_what_the_loaders_would_miss_is_told_by_the_check(
    folder: Path, tmp_path: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    preset = get_preset("tiny-wan").model_copy(update={"name": "mine", "repo": str(folder)})
    assert check(preset, tmp_path).problems == ()
    damage(folder)
    (problem,) = check(preset, tmp_path).problems
    assert sentence in problem
    assert "\n" not in problem
