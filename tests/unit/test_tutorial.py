"""docs/tutorial.md and deploy/systemd: each command exists with its options, and vgen reads each file in them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cli.main import app
from pipeline.presets import load_library
from pipeline.prompts.parse import parse_bytes
from pipeline.scoring.suite import read_suite
from pipeline.settings import Settings
from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "docs" / "tutorial.md").read_text("utf-8")
UNITS = sorted((REPOSITORY / "deploy" / "systemd").glob("*.service"))


def block(title: str) -> str:
    match = re.search(rf"```{re.escape(title)}\n(.*?)```", TEXT, re.DOTALL)
    assert match is not None, title
    return match[1]


def commands() -> list[str]:
    shell = [line for text in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in text.splitlines()]
    told = re.findall(r"`(vgen [^`]+)`", TEXT)
    services = [re.findall(r"^ExecStart=\S+/(vgen .*)$", unit.read_text("utf-8"), re.MULTILINE)[0] for unit in UNITS]
    return [line for line in (*shell, *told, *services) if line.startswith("vgen ")]


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_each_command_exists_with_its_options(line: str) -> None:
    command: Any = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]

    assert command.name != "vgen", f"{line}: no such command"
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known


def test_its_files_are_ones_that_vgen_reads(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(block("toml preset"), "utf-8")
    (tmp_path / "suite.json").write_text(block("json suite"), "utf-8")

    assert load_library(tmp_path).get("own").defaults.num_frames == 81
    assert len(read_suite(tmp_path / "suite.json").entries) == 2
    parsed = parse_bytes(block("text prompts.txt").encode(), "prompts.txt", overrides={}, settings=Settings())
    assert [job.spec.preset for job in parsed.jobs] == ["shapes-wan", "shapes-wan"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_no_mistake_in_the_units(tmp_path: Path) -> None:
    for unit in UNITS:  # the program is where the tutorial installs it, and not here
        text = unit.read_text("utf-8").replace("/opt/vgen/.venv/bin/vgen", "/bin/true")
        (tmp_path / unit.name).write_text(text, "utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", *sorted(tmp_path.glob("*.service"))], capture_output=True, text=True, check=False
    )

    assert len(UNITS) == 4
    assert [line for line in done.stderr.splitlines() if str(tmp_path) in line or "vgen-" in line] == []
