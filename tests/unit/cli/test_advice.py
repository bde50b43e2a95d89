"""What is said of jobs before they are made: models that are not here or not whole, and text that has no effect."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.models.tiny_wan import ensure_tiny_wan
from tests.unit.cli.conftest import Vgen


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_tiny_wan(tmp_path_factory.mktemp("models"))


@pytest.fixture
def own(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a whole model, whose preset is ``own``."""
    model = Path(shutil.copytree(whole, tmp_path / "model"))
    presets = tmp_path / "presets"
    presets.mkdir()
    rules = (
        "size = { multiple = 16, minimum = 16, maximum = 128 }\ndefaults = { width = 32, height = 32, num_frames = 9 }"
    )
    text = f'extends = "wan2.1-t2v-1.3b"\nmodel = "{model}"\nrandom_weights = true\n{rules}\n'
    (presets / "own.toml").write_text(text, "utf-8")
    monkeypatch.setenv("VGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("VGEN_PRESETS_DIR", str(presets))
    monkeypatch.setenv("VGEN_PRESET", "own")
    return model


def break_model(model: Path, how: str) -> None:
    path = model / "transformer/diffusion_pytorch_model.safetensors"
    match how:
        case "missing":
            shutil.rmtree(model)
        case "damaged":
            path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_every_command_says_at_once_that_a_model_is_not_whole(own: Path, vgen: Vgen, tmp_path: Path, how: str) -> None:
    break_model(own, how)
    file = tmp_path / "p.txt"
    file.write_text("a fox\n", "utf-8")
    sentence = f"'own': its model is {how}: "

    # Where it would be made now, nothing is stored; a dry run says the same, and so does what only stores it
    outcome = vgen("run", file)
    assert (outcome.code, sentence in outcome.err) == (2, True), outcome
    assert not (tmp_path / "home").exists()
    assert sentence in vgen("submit", file).err
    dry = vgen("submit", file, "--dry-run", "--json")
    assert (dry.code, [sentence in text for text in dry.json["notices"]]) == (0, [True])
    assert sentence in vgen("run", file, "--dry-run").err

    # And so do the list, the check and the doctor
    models = {model["name"]: model["status"] for model in vgen("models", "list", "--json").json["models"]}
    assert models["own"] == how
    assert vgen("models", "check", "own").code == 3
    checks = {check["name"]: check["result"] for check in vgen("doctor", "--json").json["checks"]}
    assert checks["model"] == "fail"


def test_a_host_of_a_cluster_that_only_submits_needs_no_model(
    own: Path, vgen: Vgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_model(own, "missing")
    monkeypatch.setenv("VGEN_BROKER_URL", "redis://127.0.0.1:1/0")
    file = tmp_path / "p.txt"
    file.write_text("a fox\n", "utf-8")
    plan = vgen("submit", file, "--dry-run", "--json").json
    assert "this matters only where a worker runs" in plan["notices"][0]
    outcome = vgen("submit", file)
    assert (outcome.code, "this matters only where a worker runs" in outcome.err) == (0, True), outcome


def test_text_that_has_no_effect_is_said(own: Path, vgen: Vgen, tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    long = "word " * 200
    lines = [
        {"prompt": "a fox", "negative_prompt": "dull", "guidance_scale": 1},
        {"prompt": "a fox", "negative_prompt": "dull", "guidance_scale": 5},
        {"prompt": long, "seeds": "1-3"},
        {"prompt": long, "negative_prompt": "dull", "guidance_scale": 0.5},
        {"prompt": "a fox", "negative_prompt": long},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    notices = vgen("submit", file, "--dry-run", "--json").json["notices"]
    assert notices == [
        "line 1: negative_prompt has no effect at guidance_scale 1 (2 jobs)",
        "line 3: prompt has 1001 tokens, and the text encoder reads 512 of them (4 jobs)",
        "line 5: negative_prompt has 1001 tokens, and the text encoder reads 512 of them",
    ]
    assert all(notice in vgen("submit", file).err for notice in notices)


def test_a_million_jobs_are_looked_at_as_one(own: Path, vgen: Vgen, tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps({"prompt": "a fox", "seeds": "1-100000", "negative_prompt": "x", "guidance_scale": 1}))
    (notice,) = vgen("submit", file, "--dry-run", "--json").json["notices"]
    assert notice.endswith("(100000 jobs)")
