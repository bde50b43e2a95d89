"""`vgen votes`: clips rated and compared by the command line, and exported with the paths of their videos."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from cli.main import run
from db.session import Database
from tests.line_helpers import home_of, settings_for
from tests.unit.db.line import Line


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two clips of a home; their ids."""
    settings = settings_for(tmp_path)
    monkeypatch.setenv("VGEN_HOME", str(settings.home))
    monkeypatch.setenv("VGEN_OWNER", "ada")
    with home_of(settings) as database:
        return _made(database)


def _made(database: Database) -> list[str]:
    line = Line(database)
    line.worker()
    batch_id = line.submit({"prompt": "=1+1"}, {"prompt": "a boat"})
    ids = [f"{batch_id}-00000{number}" for number in range(2)]
    for job_id in ids:
        line.finish_job(job_id)
    return ids


def test_what_is_said_is_exported(made: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = made
    assert run(["votes", "rate", one, "--stars", "4", "--note", "a fine fox"]) == 0
    assert run(["votes", "cast", one, two, "--preferred", two, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["preferred"] == two
    assert run(["votes", "cast", two, one, "--preferred", "neither"]) == 0
    capsys.readouterr()

    assert run(["votes", "export", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(clip["stars"], clip["tied"], clip["ratings"][:1] != []) for clip in told["clips"]] == [
        (4.0, 1, True), (None, 1, False),
    ]  # fmt: skip
    assert Path(told["clips"][0]["video"]).is_absolute()

    out = tmp_path / "votes.csv"
    assert run(["votes", "export", "--format", "csv", "-o", str(out)]) == 0
    assert "1 ratings and 1 votes" in capsys.readouterr().err
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["prompt"], row["note"]) for row in rows] == [
        ("rating", "'=1+1", "a fine fox"), ("vote", "'=1+1", ""),
    ]  # fmt: skip

    assert run(["votes", "rate", one, "--stars", "0", "--note", ""]) == 0
    capsys.readouterr()
    assert run(["votes", "export"]) == 0
    assert [clip["ratings"] for clip in json.loads(capsys.readouterr().out)["clips"]] == [[], []]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rate", "ONE"], "give stars, a note, or both"),
        (["rate", "ONE", "--stars", "9"], "9 is not a number of stars"),
        (["rate", "none-000000", "--stars", "1"], "does not exist"),
        (["cast", "ONE", "ONE", "--preferred", "ONE"], "name two"),
        (["cast", "ONE", "TWO", "--preferred", "three"], "neither of the two"),
        (["export", "--format", "xml"], "use one of json, csv"),
        (["export", "--format", "csv", "--json"], "exclude each other"),
        (["export", "--expires", "30d"], "over 7 days"),
    ],
)
def test_mistakes_are_said(
    made: list[str], arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"ONE": made[0], "TWO": made[1]}
    assert run(["votes", *(names.get(text, text) for text in arguments)]) != 0
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
