"""`vgen` as a process of its own: start-up, pipes, signals, exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli_process import LIMIT_S, started, vgen
from tests.cluster import VGEN


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_HOME", str(tmp_path / "home"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("#: preset = idle\na red fox\na blue boat\n", "utf-8")
    return file


@pytest.mark.parametrize(
    ("arguments", "needed"), [(["--help"], ""), (["run", "--help"], "sqlalchemy"), (["--version"], "")]
)
def test_help_loads_nothing_heavy_but_what_its_command_always_needs(arguments: list[str], needed: str) -> None:
    heavy = ("torch", "celery", "sqlalchemy", "diffusers", "transformers", "boto3", "numpy", "alembic")
    code = (
        "import sys; from cli.main import run; code = run(sys.argv[1:])\n"
        f"print([name for name in {heavy!r} if name in sys.modules], code)"
    )

    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, timeout=LIMIT_S
    )

    assert ended.stdout.splitlines()[-1] == f"{[needed] if needed else []} 0", ended.stderr


def test_reading_and_submitting_load_no_torch_and_no_celery(prompts: Path) -> None:
    code = (
        "import sys; from cli.main import run\n"
        "codes = [run(['submit', sys.argv[1]]), run(['results']), run(['status'])]\n"
        "print([name for name in ('torch', 'celery', 'diffusers', 'boto3') if name in sys.modules], codes)"
    )

    ended = subprocess.run(
        [sys.executable, "-c", code, str(prompts)], capture_output=True, text=True, check=True, timeout=LIMIT_S
    )

    assert ended.stdout.splitlines()[-1] == "[] [0, 0, 0]", ended.stderr


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    # Given output that is larger than a pipe's buffer
    file = tmp_path / "many.txt"
    file.write_text("".join(f"prompt {number} {'long ' * 40}\n" for number in range(2000)), "utf-8")

    # When its reader takes one line and goes
    with started("submit", file, "--dry-run") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        complaints = process.stderr.read()
        code = process.wait(timeout=LIMIT_S)

    # Then nothing is said about it
    assert (code, complaints) == (0, "")


def test_piped_tables_are_tab_separated_lines(prompts: Path) -> None:
    assert vgen("submit", prompts).returncode == 0

    lines = vgen("list").stdout.splitlines()

    assert lines[0].split("\t")[0] == "batch"
    assert [len(line.split("\t")) for line in lines] == [10, 10]
    assert all(ord(character) < 128 for line in lines for character in line)


def test_an_unexpected_error_is_one_line_and_a_traceback_only_when_asked(tmp_path: Path) -> None:
    # Given a database file that is not one
    home = tmp_path / "home"
    home.mkdir()
    (home / "vgen.sqlite3").write_bytes(b"this is no database" * 100)

    plain, debug = vgen("status"), vgen("--debug", "status")

    assert plain.returncode in (1, 4)
    assert "Traceback" not in plain.stderr
    assert "vgen.sqlite3" in plain.stderr or "database" in plain.stderr
    assert debug.returncode == plain.returncode
    assert "Traceback" in debug.stderr


def test_watching_ends_with_130_on_ctrl_c_and_leaves_the_batch_alone(prompts: Path) -> None:
    assert vgen("submit", prompts).returncode == 0
    with started("watch") as process:
        assert process.stderr is not None
        assert "2 jobs wait" in process.stderr.readline()

        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=LIMIT_S)

    assert code == 130
    assert "2 waiting" in vgen("status").stdout


def test_a_home_that_cannot_be_written_ends_with_2(tmp_path: Path, prompts: Path) -> None:
    (tmp_path / "file").write_text("not a folder", "utf-8")

    ended = vgen("--home", tmp_path / "file" / "home", "submit", prompts)

    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


def test_shell_completion_offers_the_verbs() -> None:
    environment = {**os.environ, "_VGEN_COMPLETE": "complete_bash", "COMP_WORDS": "vgen re", "COMP_CWORD": "1"}

    ended = subprocess.run(VGEN, capture_output=True, text=True, env=environment, timeout=LIMIT_S, check=False)

    assert {"results", "retry", "rerun", "reject"} <= set(ended.stdout.split())
