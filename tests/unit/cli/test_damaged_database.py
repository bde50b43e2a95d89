"""A SQLite file that is damaged, cut, not one at all, locked or read-only: what every command says of it."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from db import session as session_module
from tests.unit.cli.conftest import Home, Vgen

BATCH, JOB, FILE = "{batch}", "{job}", "{file}"
COMMANDS: tuple[tuple[str, ...], ...] = (
    *(("status",), ("list",), ("report",), ("results",), ("workers",), ("watch",), ("db", "check"), ("run",)),
    *((verb, BATCH) for verb in ("events", "pause", "resume", "cancel", "retry", "budget")),
    *((verb, JOB) for verb in ("show", "approve", "reject", "rerun", "events")),
    *(("submit", FILE, "--again"), ("run", FILE, "--again"), ("db", "upgrade"), ("doctor",), ("sweep",)),
    ("eval", "runs"),
)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def zero_first_pages(path: Path) -> None:
    overwrite(path, 100, bytes(4000))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "another file": lambda path: path.write_bytes(b"this is no database" * 1000),
    "another header": lambda path: overwrite(path, 0, b"PK\3\4"),
    "cut": cut,
    "first page": zero_first_pages,
    "every page": lambda path: [overwrite(path, at, b"\xff" * 64) for at in range(4096, path.stat().st_size, 4096)],
}


def arguments(home: Home, command: tuple[str, ...]) -> list[str]:
    return [word.format(batch=home.batch_id, job=home.job_ids[0], file=home.file) for word in command]


def settle(home: Home) -> Path:
    """The database's file, with all that its log held."""
    path = home.folder / "vgen.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_command_says_that_the_file_is_damaged(damage: str, home: Home, vgen: Vgen) -> None:
    path = settle(home)
    DAMAGES[damage](path)
    before = path.read_bytes()

    for command in COMMANDS:
        outcome = vgen(*arguments(home, command))

        assert (outcome.code, command) == (4, command), outcome.err
        said = outcome.err + outcome.out  # doctor's table
        assert "vgen.sqlite3" in said
        assert "move it away" in said
        assert "vgen: unexpected" not in said
    assert path.read_bytes() == before


def test_a_file_with_wrong_bytes_anywhere_ends_no_command_with_an_unexpected_error(home: Home, vgen: Vgen) -> None:
    """SQLite keeps no checksums: what is wrong within a value may go unnoticed, but then it does no harm here."""
    path = settle(home)
    sound, dice = path.read_bytes(), random.Random(22)

    for number in range(72):
        for left in path.parent.glob("vgen.sqlite3-*"):
            left.unlink()
        path.write_bytes(sound)
        for _ in range(dice.choice((1, 3, 30))):
            overwrite(path, dice.randrange(len(sound)), dice.randbytes(dice.choice((1, 2, 16))))
        command = COMMANDS[number % len(COMMANDS)]
        if command[0] in ("run", "watch"):
            continue
        outcome = vgen(*arguments(home, command))

        assert outcome.code in (0, 1, 2, 3, 4), (number, command)
        assert "vgen: unexpected" not in outcome.err, (number, command, outcome.err)
        assert "Traceback" not in outcome.err


def test_a_file_that_another_process_has_locked_says_so(
    home: Home, vgen: Vgen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "_SQLITE_BUSY_MS", 50)
    holder = sqlite3.connect(settle(home), isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        outcome = vgen("cancel", home.batch_id)
    finally:
        holder.close()

    assert outcome.code == 4
    assert "vgen.sqlite3: database is locked" in outcome.err


def test_a_folder_or_a_missing_log_in_its_place_is_no_traceback(home: Home, vgen: Vgen, tmp_path: Path) -> None:
    path = home.folder / "vgen.sqlite3"
    for left in home.folder.glob("vgen.sqlite3-*"):
        left.unlink()
    assert vgen("status").code in (0, 3)

    shutil.move(path, tmp_path / "aside")
    path.mkdir()
    for command in COMMANDS:
        outcome = vgen(*arguments(home, command))
        assert (outcome.code, command) == (4, command)
        assert "unable to open database file" in outcome.err + outcome.out
