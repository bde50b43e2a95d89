"""`vgen models` and submitting with presets of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Vgen


@pytest.fixture
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setenv("VGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("VGEN_PRESETS_DIR", str(folder))
    (folder / "mine.toml").write_text('extends = "idle"\nhidden = false\n[defaults]\nwidth = 48\n', "utf-8")
    (folder / "nightly.toml").write_text('extends = "wan2.1-t2v-1.3b"\nmodel = "./step-9"\n', "utf-8")
    return folder


def test_own_presets_are_listed_with_their_file(presets: Path, vgen: Vgen) -> None:
    sources = {row[0]: row[-1] for row in vgen("models", "list").rows}
    assert sources["mine"] == str(presets / "mine.toml")
    assert sources["tiny-wan"] == "catalogue"
    listed = vgen("models", "list", "--json").json
    assert {model["name"]: model["status"] for model in listed["models"]}["nightly"] == "missing"
    assert listed["problems"] == []


def test_what_fits_here_and_what_was_published_is_said(presets: Path, vgen: Vgen) -> None:
    listed = {model["name"]: model["fits"] for model in vgen("models", "list", "--json").json["models"]}
    shown = vgen("models", "show", "wan2.1-t2v-1.3b").out

    assert listed["tiny-wan"] == "yes"
    assert listed["wan2.1-t2v-1.3b"] in ("unknown", "no GPU"), "no source says what it needs without offloading"
    assert "240 s a clip on RTX 4090, 8.19 GB of GPU memory" in shown
    assert "https://github.com/Wan-Video/Wan2.1/blob/main/README.md" in shown
    assert "published" not in vgen("models", "show", "nightly").out, "another model than the one that it extends"


def test_show_tells_where_a_preset_comes_from_and_what_it_became(presets: Path, vgen: Vgen) -> None:
    shown = vgen("models", "show", "nightly", "--json").json
    assert shown["source"] == str(presets / "nightly.toml")
    assert (shown["preset"]["repo"], shown["preset"]["pipeline_class"]) == (str(presets / "step-9"), "WanPipeline")
    assert str(presets / "nightly.toml") in vgen("models", "show", "nightly").out


def test_check_names_a_missing_folder_and_wrong_files(presets: Path, vgen: Vgen) -> None:
    (presets / "bad.toml").write_text('extends = "idle"\ncolour = 1\nframes = 2\n', "utf-8")
    outcome = vgen("models", "check", "--json")
    found = {model["name"]: model for model in outcome.json["models"]}
    assert outcome.code == 3
    assert (found["mine"]["status"], found["mine"]["problems"]) == ("built in", [])
    assert found["nightly"]["problems"] == [f"not on this machine: there is no {presets}/step-9/model_index.json"]
    assert found["bad"]["status"] == "wrong"
    assert found["bad"]["source"] == str(presets / "bad.toml")
    assert found["bad"]["problems"][0].startswith("frames: 2 is not possible")
    assert len(found["bad"]["problems"]) == 2
    assert [model["name"] for model in vgen("models", "check", "bad", "--json").json["models"]] == ["bad"]


def test_a_wrong_file_is_told_by_every_command_that_meets_it(presets: Path, vgen: Vgen, prompts: Path) -> None:
    (presets / "bad.toml").write_text('extends = "idle"\ncolour = 1\n', "utf-8")
    said = f"{presets}/bad.toml: colour: is not a field of a preset"
    assert said in vgen("models", "list").err
    assert said in vgen("doctor").out
    for command in (("models", "show", "bad"), ("models", "pull", "bad"), ("submit", prompts, "--preset", "bad")):
        outcome = vgen(*command)
        assert (outcome.code, said in outcome.err) == (2, True), (command, outcome)
    assert vgen("submit", prompts, "--preset", "mine").code == 0


def test_a_job_of_an_own_preset_is_checked_and_pinned(presets: Path, vgen: Vgen, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a fox\n", "utf-8")
    plan = vgen("submit", file, "--preset", "mine", "--dry-run", "--json").json
    assert plan["jobs"][0]["spec"]["width"] == 48
    assert len(plan["jobs"][0]["spec"]["preset_digest"]) == 64
    assert plan["needs"][0]["random_weights"] is True
    assert "mine" in vgen("submit", file, "--preset", "mime").err

    batch = vgen("submit", file, "--preset", "mine", "--json").json["batch"]
    job = vgen("show", f"{batch['id']}-000000", "--json").json
    assert job["spec"]["preset_digest"] == plan["jobs"][0]["spec"]["preset_digest"]
    assert job["job"]["random_weights"] is True
    assert vgen("submit", file, "--preset", "mine", "--json").json["created"] is False

    (presets / "mine.toml").write_text('extends = "idle"\nversion = 2\n[defaults]\nwidth = 48\n', "utf-8")
    assert vgen("submit", file, "--preset", "mine", "--json").json["created"] is True


def test_rerun_of_a_sidecar_says_when_the_own_preset_changed(presets: Path, vgen: Vgen, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a fox\n", "utf-8")
    spec = vgen("submit", file, "--preset", "mine", "--dry-run", "--json").json["jobs"][0]["spec"]
    sidecar = tmp_path / "clip.json"
    encode = {"codec": "libx264", "quality": 20, "preset": "medium", "threads": 2}
    content = {"schema": "vgen.sidecar/1", "request": spec, "preset": {"name": "mine", "version": 1}, "encode": encode}
    sidecar.write_text(json.dumps(content), "utf-8")
    assert "preset" not in vgen("rerun", sidecar).err.replace("'preset': 'medium'", "").replace(
        "'preset': 'superfast'", ""
    )

    (presets / "mine.toml").write_text('extends = "idle"\nversion = 2\n', "utf-8")
    outcome = vgen("rerun", sidecar, "--json")
    assert "another form of preset mine" in outcome.err
    new = vgen("show", f"{outcome.json['batch']['id']}-000000", "--json").json["spec"]
    assert new["preset_digest"] != spec["preset_digest"]

    (presets / "mine.toml").unlink()
    gone = vgen("rerun", sidecar)
    assert gone.code == 2
    assert f"looked in {presets}" in gone.err
