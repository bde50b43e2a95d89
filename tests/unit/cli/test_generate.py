"""`vgen generate`: one clip by a file, without a home's rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Vgen


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VGEN_HOME", str(tmp_path / "home"))
    path = tmp_path / "run.yaml"
    path.write_text("preset: idle\nrequest: {prompt: a fox, seed: 7}\n", "utf-8")
    return path


def test_a_clip_is_made_with_overrides_on_top(vgen: Vgen, config: Path, tmp_path: Path) -> None:
    made = vgen("generate", "--config", config, "--request.seed", "8", "--output.path=fox.mp4", "--json")

    assert made.code == 0, made.err
    assert (made.json["seed"], made.json["prompt"]) == (8, "a fox")
    assert made.json["video"] == str(tmp_path / "fox.mp4")
    sidecar = json.loads((tmp_path / "fox.json").read_text("utf-8"))
    assert sidecar["frames"]["sha256"] == made.json["frames_sha256"]
    assert not list((tmp_path / "home").glob("*.sqlite3"))

    again = vgen("generate", "--config", config, "--output.path", "fox.mp4")
    assert again.code == 2
    assert "exists; set output.overwrite" in again.err
    plain = vgen("generate", "--config", config, "--output.path", "fox.mp4", "--output.overwrite", "true")
    assert plain.code == 0, plain.err
    assert "frames sha256" in plain.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--request.promt", "x"), "promt: unknown field; did you mean 'prompt'"),
        (("--requst.seed", "1"), "--requst.seed: unknown key; did you mean 'request.'"),
        (("--preest", "x"), "--preest: unknown key; did you mean 'preset'"),
        (("--output.pth", "x"), "output.pth: unknown key; did you mean 'path'"),
        (("--request.seed",), "--request.seed: needs a value"),
        (("--request.num_frames", "many"), "num_frames: 'many' is not a whole number"),
        (("stray",), "'stray' is not an override"),
        (("--settings.encode.quality", "900"), "VGEN_ENCODE_QUALITY"),
        (("--preset", "idel"), "did you mean 'idle'"),
    ],
)
def test_a_mistake_is_named_and_nothing_written(
    vgen: Vgen, config: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    outcome = vgen("generate", "--config", config, *arguments)
    assert outcome.code == 2, outcome.err
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert list(tmp_path.glob("*.mp4")) == []


def test_the_file_must_be_named_and_there(vgen: Vgen, tmp_path: Path) -> None:
    assert "--config" in vgen("generate").err
    missing = vgen("generate", "--config", tmp_path / "no.yaml")
    assert missing.code == 2
    assert "cannot be read: No such file" in missing.err
