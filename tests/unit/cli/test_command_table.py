"""The table of commands: each row leads to a command, and the help imports none of them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer.main

from cli.main import TABLE, app, run


@pytest.mark.parametrize("name", TABLE)
def test_each_row_leads_to_its_command(name: str) -> None:
    command = TABLE[name].load(name)

    assert command.name == name
    assert command.help
    assert TABLE[name].help.endswith(".")
    assert len(TABLE[name].help) <= 78, "it has one line of a terminal of 100 columns"


def test_a_wrong_name_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:

    assert run(["sumbit", "x.txt"]) == 2
    assert "Did you mean 'submit'" in capsys.readouterr().err


def test_the_help_lists_every_command_and_imports_none() -> None:
    script = (
        "import sys; from cli.main import run; code = run(['--help']);"
        "print(*sorted(name for name in sys.modules if name.split('.')[0] in"
        " ('cli', 'db', 'tasks', 'server', 'sqlalchemy', 'celery', 'torch', 'pydantic', 'fastapi', 'uvicorn')),"
        " file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    for name, entry in TABLE.items():
        assert f"  {name} " in done.stdout
        assert entry.help.split()[0] in done.stdout
    imported = done.stderr.split()
    assert not [name for name in imported if name.startswith(("cli.batches", "cli.jobs", "cli.eval", "cli.operate"))]
    assert not [name for name in imported if name.split(".")[0] != "cli"]


def test_every_subcommand_is_found_by_way_of_the_table() -> None:
    group = typer.main.get_command(app)
    assert "weights" in group.commands["eval"].commands  # type: ignore[attr-defined]
