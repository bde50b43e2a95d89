"""A run's configuration: what is read, what wins, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError, SettingsError
from vgen import read_config

FULL = """
preset: tiny-wan
request: {prompt: a fox, seed: 7, image: start.png, labels: {a: b}}
output: {path: out/fox.mp4}
settings: {encode: {quality: 20}, log_level: INFO}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "run.yaml"
    path.parent.mkdir()
    path.write_text(FULL, "utf-8")
    return path


def test_paths_of_a_file_start_at_its_folder_and_overrides_at_the_current_one(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = read_config(file)
    assert run.request is not None
    assert (run.request.prompt, run.request.seed) == ("a fox", 7)
    assert run.request.image == str(file.parent / "start.png")
    assert run.output.video == file.parent / "out/fox.mp4"
    assert run.settings.encode.quality == 20

    overrides = [("output.path", "x.mp4"), ("request.image", "y.png"), ("request.prompt", "1: 2")]
    run = read_config(file, [*overrides, ("settings.encode.quality", "30"), ("request.seed", "8")])
    assert run.request is not None
    assert run.output.video == tmp_path / "x.mp4"
    assert run.request.image == str(tmp_path / "y.png")
    assert (run.request.prompt, run.request.seed) == ("1: 2", 8)
    assert run.settings.encode.quality == 30


def test_the_default_output_is_named_after_the_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file.write_text("request: {prompt: a}\n", "utf-8")
    assert read_config(file).output.video == tmp_path / "run.mp4"


@pytest.mark.parametrize(
    ("config", "field", "message"),
    [
        ({"presett": "x"}, "presett", "did you mean 'preset'"),
        ({"output": {"paht": "x.mp4"}}, "output.paht", "did you mean 'path'"),
        ({"settings": {"encod": {}}}, "settings.encod", "did you mean 'encode'"),
        ({"settings": {"encode": {"qualty": 3}}}, "settings.encode.qualty", "did you mean 'quality'"),
        ({"settings": {"encode": 3}}, "settings.encode", "3 is not a mapping"),
        ({"output": "x.mp4"}, "output", "'x.mp4' is not a mapping"),
        ({"output": {"overwrite": "yes please"}}, "output.overwrite", "is not true or false"),
        ({"output": {"path": 3}}, "output.path", "3 is not text"),
        ({"preset": "a", "model": "b"}, "preset", "exclude each other"),
        ({"preset": 3}, "preset", "3 is not text"),
        ({"extends": "wan2.1-t2v-1.3b"}, "extends", "goes with model"),
        ({"request": {}}, "request.prompt", "is missing"),
    ],
)
def test_a_mistake_is_named_with_its_key(config: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_config({"request": {"prompt": "a"}, **config})
    assert [problem.field for problem in caught.value.problems] == [field]
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "run.yaml:2: the configuration cannot be read: not YAML"),
        ("- a", "is not a mapping of keys"),
        ("", "is not a mapping of keys"),
    ],
)
def test_a_file_that_is_no_configuration(file: Path, text: str, message: str) -> None:
    file.write_text(f"{text}\n", "utf-8")
    with pytest.raises(InputError, match=r"run\.yaml") as caught:
        read_config(file)
    assert message in str(caught.value)


def test_a_file_that_is_not_there_and_a_wrong_setting(file: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_config(file.with_name("no.yaml"))
    with pytest.raises(SettingsError, match="VGEN_ENCODE_QUALITY"):
        read_config(file, [("settings.encode.quality", "lots")])
    with pytest.raises(InputError, match=r"^--preset\.x: 'preset' has no keys below it"):
        read_config(file, [("preset.x", "1")])


@pytest.mark.parametrize(
    ("safety", "expected"),
    [
        ("{policy: open}", "settings.safety.policy: 'open' is laxer than this site's, 'closed'"),
        ("{policy: hold}", "settings.safety.policy: 'hold' is laxer than this site's, 'closed'"),
        ("{classifier: null}", "settings.safety.classifier: None is not this site's"),
        ("{classifier: mine.bin}", "settings.safety.classifier: 'mine.bin' is not this site's"),
        ("{threshold: 0.9}", "settings.safety.threshold: 0.9 is over this site's, 0.5"),
    ],
)
def test_a_file_cannot_screen_less_than_the_site(
    file: Path, monkeypatch: pytest.MonkeyPatch, safety: str, expected: str
) -> None:
    monkeypatch.setenv("VGEN_SAFETY_CLASSIFIER", "/models/safety.bin")
    file.write_text(FULL.replace("{encode:", f"{{safety: {safety}, encode:"), "utf-8")

    with pytest.raises(InputError) as caught:
        read_config(file)

    assert expected in str(caught.value)


def test_a_file_can_screen_more_than_the_site_and_a_person_can_say_otherwise(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_SAFETY_CLASSIFIER", "/models/safety.bin")
    monkeypatch.setenv("VGEN_SAFETY_POLICY", "hold")
    file.write_text(FULL.replace("{encode:", "{safety: {policy: closed, threshold: 0.1}, encode:"), "utf-8")

    assert read_config(file).settings.safety.policy == "closed"
    assert read_config(file).settings.safety.threshold == 0.1
    assert read_config(file, [("settings.safety.policy", "open")]).settings.safety.policy == "open"


def test_a_policy_asked_for_without_a_classifier_is_refused(file: Path) -> None:
    file.write_text(FULL.replace("{encode:", "{safety: {policy: hold}, encode:"), "utf-8")

    with pytest.raises(InputError, match=r"settings\.safety\.policy: 'hold' is given, but no classifier is set"):
        read_config(file)
