"""LoRAs of a prompt file: what people write, what becomes of it, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from pipeline.errors import InputError
from pipeline.prompts import Submission, parse
from pipeline.settings import load_settings
from pipeline.spec import JobSpec, LoraRef
from tests.loras import write_lora

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files beside the prompt file, and a third in the hub's cache as the hub's client leaves it."""
    write_lora(tmp_path / "a.safetensors")
    write_lora(tmp_path / "b@2.safetensors", seed=1)
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repo = cache / "models--some--style"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    (repo / "snapshots" / COMMIT).mkdir(parents=True)
    write_lora(repo / "snapshots" / COMMIT / "c.safetensors", seed=2)


def read(folder: Path, text: str, name: str = "p.jsonl", **overrides: object) -> Submission:
    (folder / name).write_text(text, "utf-8")
    return parse(folder / name, overrides=overrides, settings=load_settings(home=folder / "home"))


def line(**fields: object) -> str:
    return json.dumps({"prompt": "x", "seed": 1, **fields})


def shown(lora: LoraRef) -> tuple[str, float, str | None, str | None]:
    return lora.file.name, lora.scale, lora.repo, lora.revision


def test_every_form_says_the_same(tmp_path: Path) -> None:
    mappings = [
        {"path": "a.safetensors", "scale": 0.8},
        {"path": ".", "weight_name": "b@2.safetensors"},
        {"repo": "some/style", "weight_name": "c.safetensors", "scale": -1},
    ]
    short = "a.safetensors@0.8,b@2.safetensors,some/style:c.safetensors@-1"
    found = [
        read(tmp_path, line(loras=mappings)),
        read(tmp_path, line(lora=short)),
        read(tmp_path, line(loras=short.split(","))),
        read(tmp_path, f'prompt,seed,lora\nx,1,"{short}"\n', "p.csv"),
        read(tmp_path, f"x --seed 1 --lora {short}", "p.txt"),
        read(tmp_path, line(lora="a.safetensors"), lora=short),
    ]
    for submission in found[:5]:
        assert [shown(lora) for lora in submission.jobs[0].spec.loras] == [
            ("a.safetensors", 0.8, None, None),
            ("b@2.safetensors", 1.0, None, None),
            ("c.safetensors", -1.0, "some/style", COMMIT),
        ]
    assert len({submission.fingerprint for submission in found[:3]}) == 1
    assert [lora.file.name for lora in found[5].jobs[0].spec.loras] == ["a.safetensors"], "the line's are the last word"
    spec = found[0].jobs[0].spec
    assert set(found[0].inputs) == {ref.sha256 for ref in spec.input_refs}
    assert JobSpec.model_validate(spec.model_dump(mode="json")).loras == spec.loras


def test_content_and_scale_count_in_the_fingerprint_and_names_do_not(tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
    made = {
        given: read(tmp_path, line(lora=given)).fingerprint
        for given in ("a.safetensors", "other.safetensors@1", "a.safetensors@0.5", "b@2.safetensors", "none")
    }
    assert made["a.safetensors"] == made["other.safetensors@1"]
    assert len(set(made.values())) == 4
    assert made["none"] == read(tmp_path, line()).fingerprint
    assert read(tmp_path, line(loras=[]), lora="a.safetensors").jobs[0].spec.loras == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lora": "missing.safetensors"}, "'missing.safetensors' does not exist"),
        ({"lora": "p.jsonl"}, "'p.jsonl' is not a complete safetensors file"),
        ({"lora": "cut.safetensors"}, "'cut.safetensors' is not a complete safetensors file"),
        ({"lora": "model.safetensors"}, "none of its 1 tensors has a LoRA's name, the first of them 'proj.weight'"),
        ({"lora": "../a.safetensors"}, "outside the allowed folders"),
        ({"lora": "https://example.com/a.safetensors"}, "is a URL"),
        ({"lora": "a.safetensors@nan"}, "scale: nan is not a finite number"),
        ({"lora": "@2"}, "'@2' names no file"),
        ({"loras": [{"path": "a.safetensors", "scale": "strong"}]}, "scale: 'strong' is not a finite number"),
        ({"loras": [{"path": "a.safetensors", "weight": 1}]}, "unknown key 'weight'; did you mean"),
        ({"loras": [{"path": "a.safetensors", "repo": "a/b"}]}, "give 'path' or 'repo', one of them"),
        ({"loras": [{"path": "a.safetensors", "revision": "main"}]}, "'revision' belongs to 'repo'"),
        ({"loras": [{"repo": "style"}]}, "repo: 'style' is not of the form 'org/name'"),
        ({"loras": [{"repo": "some/style", "weight_name": "d.safetensors"}]}, "some/style at main: "),
        ({"loras": 3}, "3 is not a list of LoRAs"),
        ({"loras": ["a.safetensors", "a.safetensors@2"]}, "'a.safetensors' is listed twice"),
        ({"loras": ["a.safetensors"], "lora": "a.safetensors"}, "both 'lora' and 'loras' are given"),
        ({"lora": "a.safetensors", "preset": "idle"}, "makes no picture and takes none"),
        (
            {"lora": "a.safetensors", "preset": "hunyuan-video-1.5"},
            "diffusers has no LoRA loader for HunyuanVideo15Pipeline",
        ),
        ({"lora": "a.safetensors", "acceleration": "layerwise_casting=float8_e5m2"}, "with layerwise_casting"),
        ({"loras": [{"path": "a.safetensors", "load_into_transformer_2": True}]}, "has one denoiser"),
    ],
)
def test_mistakes_have_their_line_field_and_rule(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    save_file({"proj.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-1])
    with pytest.raises(InputError) as caught:
        read(tmp_path, line() + "\n" + line(**fields))
    (problem,) = caught.value.problems
    assert problem.line == 2
    assert problem.field in ("lora", "loras")
    assert message in problem.message
