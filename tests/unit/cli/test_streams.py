"""No stream, encoding or file name ends a command with a traceback, or with an exit code of the interpreter's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cli.main import app

Case = dict[str, Any]


def _leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from _leaves(child, (*path, name))


COMMANDS = sorted(_leaves(typer.main.get_command(app)))
"""Every command and group, by the words that call it."""

PRINTING = [
    ["list"],
    ["list", "--json"],
    ["status", "latest"],
    ["status", "latest", "--json"],
    ["results", "latest"],
    ["events", "latest"],
    ["events", "latest", "--jsonl"],
    ["config"],
    ["config", "--json"],
    ["models", "list"],
    ["workers"],
    ["show", "nothing"],
    ["frobnicate"],
    ["--version"],
]
"""What shows rows, settings, a mistake."""

BROKEN = [
    "reader gone",
    "both readers gone",
    "stdout closed",
    "stderr closed",
    "all closed",
    "stdout full",
    "both full",
]


def _run(home: Path, cases: list[Case]) -> list[Case]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VGEN_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.cli.forked_vgen"],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
        env=environment | {"VGEN_HOME": str(home), "VGEN_CACHE_DIR": str(home / "cache")},
    )
    results: list[Case] = json.loads(done.stdout)
    for case, result in zip(cases, results, strict=True):
        assert "Traceback" not in result["err"], (case, result["err"])
        assert "Exception ignored" not in result["err"], (case, result["err"])
        assert result["code"] in (0, 1, 2, 3, 4), (case, result)
    return results


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A solo home with a batch whose names and prompts are not ASCII."""
    home = tmp_path_factory.mktemp("home")
    prompts = home / "füchse.jsonl"
    prompts.write_text(json.dumps({"prompt": "ein Fuchs 🦊 läuft"}, ensure_ascii=False) + "\n", "utf-8")
    (done,) = _run(home, [{"arguments": ["submit", str(prompts), "--preset", "tiny-wan"], "streams": "sound"}])
    assert done["code"] == 0, done["err"]
    return home


def test_help_of_every_command_outlives_its_reader_and_a_full_disk(home: Path) -> None:
    cases = [
        {"arguments": [*words, "--help"], "streams": ("reader gone", "stdout full")[number % 2]}
        for number, words in enumerate(COMMANDS)
    ]
    for case, result in zip(cases, _run(home, cases), strict=True):
        assert result["code"] == (0 if case["streams"] == "reader gone" else 1), (case, result)
        if case["streams"] == "stdout full":
            assert result["err"] == "vgen: standard output: No space left on device\n"


def test_whatever_is_printed_outlives_every_broken_stream(home: Path) -> None:
    sound = _run(home, [{"arguments": arguments, "streams": "sound"} for arguments in PRINTING])
    # Each command with three of the streams in turn, so that each stream is met by six commands.
    cases = [
        {"arguments": arguments, "streams": BROKEN[(number * 3 + turn) % len(BROKEN)]}
        for number, arguments in enumerate(PRINTING)
        for turn in range(3)
    ]
    for case, result in zip(cases, _run(home, cases), strict=True):
        expected = sound[PRINTING.index(case["arguments"])]
        full = case["streams"] in ("stdout full", "both full") and expected["out"]
        assert result["code"] == (1 if full and expected["code"] == 0 else expected["code"]), (case, result)
        if case["streams"] == "stderr closed":
            assert result["out"].split("\t")[0] == expected["out"].split("\t")[0]


def test_any_encoding_of_the_terminal_is_written_and_json_stays_json(home: Path) -> None:
    cases = [
        {"arguments": arguments, "streams": "sound", "encoding": encoding}
        for arguments in PRINTING
        for encoding in ("ascii", "latin-1")
    ]
    for case, result in zip(cases, _run(home, cases), strict=True):
        if "--json" in case["arguments"]:
            json.loads(result["out"])
        elif "--jsonl" in case["arguments"]:
            assert [json.loads(line) for line in result["out"].splitlines()]


NOT_UTF8 = "f\udcff"
"""As Python writes a name with the byte FF."""


def test_a_file_name_that_is_not_utf8_ends_no_command(tmp_path: Path, home: Path) -> None:
    folder = tmp_path / NOT_UTF8
    folder.mkdir()
    prompts = folder / f"{NOT_UTF8}.jsonl"
    prompts.write_text('{"prompt": "a fox", "preset": "tiny-wan"}\n')
    words = [
        ["submit", str(prompts)],
        ["submit", str(prompts), "--dry-run"],
        ["submit", str(folder / "missing.jsonl")],
        ["list"],
        ["list", "--json"],
        ["status", "latest", "--json"],
        ["status", NOT_UTF8],
        ["show", NOT_UTF8],
        ["rerun", str(folder / "missing.json")],
        ["results", "latest", "--copy-to", str(folder / "to")],
        ["--home", str(folder / "home"), "list"],
        ["--home", str(folder / "home"), "config", "--json"],
        ["eval", "run", str(folder / "missing.mp4")],
        ["generate", "--config", str(folder / "missing.yaml")],
        ["state", "import", str(folder / "missing.vgen-state"), "rain"],
        [NOT_UTF8],
        ["list", f"--{NOT_UTF8}"],
    ]
    cases = [{"arguments": arguments, "streams": "sound"} for arguments in words]
    results = _run(home, cases)
    for case, result in zip(cases, results, strict=True):
        assert "unexpected" not in result["err"], (case, result)
        if "--json" in case["arguments"] and result["code"] == 0:
            json.loads(result["out"])
