"""A malformed file of any kind ends its command with exit code 2 and the file's name, without a traceback.

A reader is a row of ``COMMANDS``; the malformed contents are those of ``CONTENTS`` and the row's own.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Vgen

CORPUS = Path(__file__).parents[2] / "data" / "fuzz"
GOOD = {
    "suite.json": [{"prompt_en": "a bird", "dimension": ["color"]}],
    "manifest.json": [{"video": "a.mp4", "entry": 0, "seed": 1}],
    "good-scores.json": [{"video": "a.mp4", "entry": 0, "seed": 7, "scores": {"checks.black": {"score": 1.0}}}],
    "export/vgen-export.json": {"files": []},
}
"""What stands beside the malformed file, where a command reads several."""


@dataclass(frozen=True)
class Command:
    """``FILE`` among the words is the malformed file, which has this name in the test's folder."""

    file: str
    words: tuple[str, ...]
    own: tuple[bytes, ...] = ()


def corpus(name: str) -> bytes:
    return (CORPUS / name).read_bytes()


COMMANDS = {
    "submit txt": Command(
        "p.txt", ("submit", "FILE"), (b"a \xe2\x80\x94seed 7", corpus("prompts_txt/hang-seeds-twice.txt"))
    ),
    "submit jsonl": Command(
        "p.jsonl", ("submit", "FILE"), (b'["a"]', b'{"prompt": 1}', corpus("prompts_jsonl/exit1-fps-401-digits.jsonl"))
    ),
    "run csv": Command("p.csv", ("run", "FILE", "--dry-run"), (b"prompt,seed\na,b\n", b"Prompt\na\n")),
    "run yaml": Command("p.yaml", ("run", "FILE", "--dry-run"), (b"prompts: 1", corpus("prompts_yaml/anchors.yaml"))),
    "generate": Command(
        "run.yaml",
        ("generate", "--config", "FILE"),
        (
            *(b"[]", b"presett: x", b"preset: idle\nrequest: {prompt: a, fps: 1e400}"),
            *(
                b"settings: {encode: {quality: 900}}\nrequest: {prompt: a}",
                b"preset: idle\nrequest: {prompt: a, reference_images: 3}",
            ),
            *(b"preset: idle\nrequest: {prompt: a, promt: b}", b"preset: idle\nrequest: {prompt: a, fps: -1}"),
            corpus("run_yaml/laughs.yaml"),
        ),
    ),
    "suite": Command(
        "own.json",
        ("eval", "suite", "FILE"),
        (b"{}", b'[{"prompt_en": "a", "dimension": [[]]}]', b'[{"prompt_en": "a\\u0000", "dimension": ["color"]}]'),
    ),
    "manifest": Command(
        "m.json",
        ("eval", "run", "--manifest", "FILE", "--suite", "suite.json"),
        (b"{}", b'[{"video": "a.mp4", "entry": ' + b"9" * 5000 + b', "seed": 1}]', b'[{"video": 1}]'),
    ),
    "export's suite": Command(
        "s.json", ("eval", "export", "--manifest", "manifest.json", "--suite", "FILE", "--to", "out"), (b"[1]",)
    ),
    "export's manifest": Command(
        "m.json", ("eval", "export", "--manifest", "FILE", "--suite", "suite.json", "--to", "out"), (b"[[]]",)
    ),
    "aggregate": Command(
        "scores.json",
        ("eval", "aggregate", "FILE"),
        (b"{}", b'[{"video": "a", "scores": {"x": {"score": NaN}}}]', corpus("scores/video-list.json")),
    ),
    "compare": Command(
        "scores.json",
        ("eval", "compare", "good-scores.json", "FILE"),
        (
            b'[{"video": "a", "entry": [], "seed": 1, "scores": {}}]',
            b'[{"video": "a", "scores": {"x": {"score": 1e99}}}]',
        ),
    ),
    "import": Command(
        "results.json",
        ("eval", "import", "FILE", "--export", "export", "--scores", "new.json"),
        (b"[]", b'{"color": 1}', b'{"color": [1, [3]]}', b'{"speed": [1, []]}'),
    ),
    "import's scores": Command(
        "scores.json", ("eval", "import", "results.json", "--export", "export", "--scores", "FILE"), (b"{}",)
    ),
    "import's export": Command(
        "vgen-export.json",
        ("eval", "import", "results.json", "--export", ".", "--scores", "new.json"),
        (b"[]", b'{"files": [{"dimension": []}]}', b'{"files": {"a": 1}}'),
    ),
    "preset": Command(
        "mine.toml", ("models", "show", "mine"), (corpus("preset/int.toml"), corpus("preset/date.toml"), b"version = 1")
    ),
}
CONTENTS = (
    b"",
    b"\xff\xfe\x00",
    b"\0\0\0",
    b"[" * 100_000,
    b'{"a": ' + b"9" * 5000 + b"}",
    b"PK\x03\x04",
    b"%TAG ! x\n---",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_malformed_file_ends_with_2_and_its_name(
    command: str, vgen: Vgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = COMMANDS[command]
    monkeypatch.setenv("VGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("VGEN_PRESETS_DIR", str(tmp_path))
    for name, value in GOOD.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(value), "utf-8")
    (tmp_path / "results.json").write_text('{"color": [1.0, []]}', "utf-8")
    for content in (*CONTENTS, *row.own):
        if row.file == "p.txt" and content.startswith((b'{"a"', b"%TAG")):  # a prompt is any text
            continue
        (tmp_path / row.file).write_bytes(content)
        done = vgen(*(str(tmp_path / row.file) if word == "FILE" else word for word in row.words))
        assert done.code == 2, (content[:99], done.err[:999])
        assert row.file in done.err, (content[:99], done.err[:999])
        assert "Traceback" not in done.err
        assert len(done.err) < 20_000
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "new.json").exists()


def test_a_file_that_is_not_there_is_named_too(vgen: Vgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_HOME", str(tmp_path / "home"))
    for name, row in COMMANDS.items():
        if "FILE" in row.words and name != "import's scores":  # which is made where there is none
            (tmp_path / "suite.json").write_text(json.dumps(GOOD["suite.json"]), "utf-8")
            (tmp_path / "manifest.json").write_text(json.dumps(GOOD["manifest.json"]), "utf-8")
            (tmp_path / "good-scores.json").write_text(json.dumps(GOOD["good-scores.json"]), "utf-8")
            (tmp_path / "export").mkdir(exist_ok=True)
            (tmp_path / "export" / "vgen-export.json").write_text('{"files": []}', "utf-8")
            done = vgen(*(f"gone-{row.file}" if word == "FILE" else word for word in row.words))
            assert (done.code, f"gone-{row.file}" in done.err) == (2, True), (name, done.err)


def test_a_name_that_no_file_can_have_ends_with_2(vgen: Vgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_HOME", str(tmp_path / "home"))
    (tmp_path / "loop").symlink_to("loop")
    for file, value in {**GOOD, "results.json": {"color": [1.0, []]}}.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(json.dumps(value), "utf-8")
    for name in ("x" * 5000, "loop/a"):
        for row in (
            *(command.words for command in COMMANDS.values() if "FILE" in command.words),
            ("eval", "run", "FILE"),
            ("eval", "import", "results.json", "--export", "FILE", "--scores", "new.json"),
            ("rerun", "FILE"),
            ("--home", "FILE", "status"),
        ):
            done = vgen(*(name if word == "FILE" else word for word in row))
            assert done.code == 2, (row, done.err[-500:])
            assert "Traceback" not in done.err
            assert name[:4] in done.err, row


def test_a_wrong_preset_harms_nobody_else(vgen: Vgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("VGEN_PRESETS_DIR", str(tmp_path))
    (tmp_path / "good.toml").write_text('extends = "idle"\nhidden = false\n', "utf-8")
    (tmp_path / "p.txt").write_text("a fox\na boat --preset good\n", "utf-8")
    for number, content in enumerate((*CONTENTS, *COMMANDS["preset"].own)):
        (tmp_path / f"bad-{number}.toml").write_bytes(content)
    (tmp_path / "device.toml").symlink_to("/dev/zero")
    os.close(os.open(os.fsencode(tmp_path) + b"/b\xff\x1b[31m.toml", os.O_CREAT))

    listed = vgen("models", "list")
    assert listed.code == 0
    assert "good" in [row[0] for row in listed.rows]
    assert "b\\udcff\\x1b[31m.toml: name: " in listed.err
    assert len(vgen("models", "list", "--json").json["problems"]) >= len(CONTENTS)
    for path in (path for path in tmp_path.glob("*.toml") if path.name.isprintable()):
        assert (f"{path}:" in listed.err) == (path.name != "good.toml")
    assert vgen("submit", tmp_path / "p.txt").code == 0
    refused = vgen("run", tmp_path / "p.txt", "--preset", "bad-1", "--dry-run")
    assert refused.code == 2
    assert "bad-1.toml:1: the preset is not UTF-8" in refused.err
