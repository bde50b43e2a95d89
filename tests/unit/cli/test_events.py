"""`vgen events`: all that happened, in order, as lines, as JSON, and while it happens."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from db.session import Database
from pipeline.states import Stage
from tests.cluster import VGEN
from tests.unit.cli.conftest import Vgen
from tests.unit.db.line import Line


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vgen: Vgen) -> Iterator[Line]:
    """A line without workers in a solo home."""
    monkeypatch.setenv("VGEN_HOME", str(tmp_path / "home"))
    (tmp_path / "one.txt").write_text("a cat\n", "utf-8")
    assert vgen("submit", tmp_path / "one.txt").code == 0
    database = Database(f"sqlite:///{tmp_path / 'home' / 'vgen.sqlite3'}")
    yield Line(database)
    database.close()


def test_the_history_of_a_job_has_events_and_attempts_in_order(line: Line, vgen: Vgen) -> None:
    batch_id, job_id, claimed = line.bring_to(Stage.PUBLISH)
    line.finish(claimed)

    found = vgen("events", job_id, "--json").json

    assert (found["batch_id"], found["job_id"]) == (batch_id, job_id)
    told = [(entry["kind"], entry["data"].get("stage")) for entry in found["entries"]]
    stages = [("attempt", stage) for stage in ("screen", "generate", "encode", "publish")]
    assert [entry for entry in told if entry[0] == "attempt"] == stages
    assert ("job_succeeded", None) in told
    assert [entry["at"] for entry in found["entries"]] == sorted(entry["at"] for entry in found["entries"])


def test_a_batch_has_the_history_of_all_its_jobs_and_no_others(line: Line, vgen: Vgen) -> None:
    other = line.submit(count=1, again=True)
    batch_id = line.submit(count=2, again=True)
    for number in range(2):
        line.worker()
        line.finish_job(f"{batch_id}-00000{number}")

    lines = [json.loads(text) for text in vgen("events", batch_id, "--jsonl").out.splitlines()]

    assert {entry["job_id"] for entry in lines} == {None, f"{batch_id}-000000", f"{batch_id}-000001"}
    assert {entry["batch_id"] for entry in lines} == {batch_id} != {other}
    assert sum(entry["kind"] == "attempt" for entry in lines) == 8
    assert lines[0]["kind"] == "submitted"
    text = vgen("events", batch_id).out.splitlines()
    assert len(text) == len(lines)
    assert all(row.count("\t") == 3 for row in text)


def test_following_tells_each_thing_once_and_ends_with_the_batch(line: Line, vgen: Vgen) -> None:
    batch_id, job_id, claimed = line.bring_to(Stage.ENCODE)
    follower = subprocess.Popen(
        [*VGEN, "events", batch_id, "--follow", "--jsonl"], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        assert follower.stdout is not None
        first = [json.loads(follower.stdout.readline()) for _ in range(3)]

        # When more happens while somebody follows
        line.finish(claimed)
        line.finish_job(job_id)
        rest, _ = follower.communicate(timeout=60)
    finally:
        follower.kill()
        follower.wait()

    entries = first + [json.loads(text) for text in rest.splitlines()]
    told = [json.dumps(entry, sort_keys=True) for entry in entries]
    assert len(set(told)) == len(told)
    assert entries[0]["kind"] == "submitted"
    assert [entry["data"]["stage"] for entry in entries if entry["kind"] == "attempt"] == [
        "screen",
        "generate",
        "encode",
        "publish",
    ]
    assert follower.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["latest", "--json", "--follow"], "--json: prints one document"), (["nope-000000"], "'nope-000000' does not")],
)
def test_what_cannot_be_shown_is_said(line: Line, vgen: Vgen, arguments: list[str], said: str) -> None:
    outcome = vgen("events", *arguments)

    assert outcome.code == 2
    assert said in outcome.err
