"""What a command says comes next is the command that works."""

from __future__ import annotations

from pathlib import Path

import pytest

from db.models import Batch
from db.session import Database
from pipeline.states import Stage
from tests.unit.cli.conftest import Vgen
from tests.unit.db.line import Line


@pytest.fixture
def submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vgen: Vgen) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VGEN_PRESET", "idle")
    (tmp_path / "one.txt").write_text("a cat\n", "utf-8")
    return tmp_path


def _next(vgen: Vgen, home: Path, *more: str) -> str:
    done = vgen("--home", home, "submit", "one.txt", *more)
    assert done.code == 0, done.err
    return next(line for line in done.out.splitlines() if line.startswith("next: "))


def test_the_next_command_knows_the_home_and_where_the_batch_stands(submitted: Path, vgen: Vgen) -> None:
    home = submitted / "another home"
    begin = f"next: vgen --home '{home}'"
    assert _next(vgen, home) == f"{begin} run"

    database = Database(f"sqlite:///{home / 'vgen.sqlite3'}")
    line = Line(database)
    with database.reading() as session:
        batch_id = session.query(Batch).one().id
    assert vgen("--home", home, "pause", batch_id).code == 0
    assert _next(vgen, home) == f"{begin} resume {batch_id}"
    assert vgen("--home", home, "resume", batch_id).code == 0

    line.worker()
    assert _next(vgen, home) == f"{begin} watch {batch_id}", "somebody works in that home"
    line.finish(line.go_on(f"{batch_id}-000000", Stage.PUBLISH))
    database.close()
    assert _next(vgen, home) == f"{begin} results {batch_id}"


def test_what_is_shown_of_a_job_is_for_people_and_agrees_with_itself(submitted: Path, vgen: Vgen) -> None:
    home = submitted / "home"
    (submitted / "one.jsonl").write_text(
        '{"prompt": "a", "labels": {"set": "x"}, "acceleration": {"step_cache": "none"}, "seed": 0}\n', "utf-8"
    )
    assert vgen("--home", home, "submit", "one.jsonl").code == 0
    job = vgen("--home", home, "list", "latest", "--json").json["jobs"][0]["id"]
    shown, detail = vgen("--home", home, "show", job).out, vgen("--home", home, "show", job, "--json").json

    assert not set("{}[]") & set(shown), "no Python values"
    assert "labels.set\tx" in shown
    assert "seed\t0" in shown
    assert detail["spec"]["random_weights"] is detail["job"]["random_weights"] is True
    assert detail["job"]["reason"]["code"] == "nobody_at_work"
