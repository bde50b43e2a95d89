"""pause, resume, budget, deadlines, and the jobs of a label or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from db import workers
from db.clips import cancel_retry_approve
from db.models import Batch, Step
from db.workers import WorkerReport
from pipeline.states import JobState, Stage
from tests.unit.cli.conftest import Home, Vgen


def _batch(home: Home, **values: Any) -> None:
    database = home.database()
    with database.transaction() as session:
        row = session.get(Batch, home.batch_id)
        for name, value in values.items():
            setattr(row, name, value)
    database.close()


def _worker(home: Home, *queues: str) -> None:
    database = home.database()
    with database.transaction() as session:
        workers.report(session, WorkerReport("gpu0@here", "here", 1, queues))
    database.close()


def test_pausing_a_batch_is_shown_and_repeating_it_changes_nothing(home: Home, vgen: Vgen) -> None:
    first = vgen("pause", "latest", "--json").json
    again = vgen("pause", home.batch_id, "--json").json

    assert first == {"paused": True, "changed": [home.batch_id], "unchanged": [], "queues": []}
    assert (again["changed"], again["unchanged"]) == ([], [home.batch_id])
    assert "paused" in vgen("list").rows[0][-1]
    assert f"vgen resume {home.batch_id}" in vgen("status").out
    assert vgen("status", "--json").json["outlook"]["stopped"] == "the batch is paused"

    vgen("resume", "latest")
    assert vgen("status", "--json").json["outlook"]["stopped"] is None


def test_queues_and_everything_are_paused_by_name(home: Home, vgen: Vgen) -> None:
    _worker(home, "vgen.gpu.h200", "vgen.io")

    outcome = vgen("pause", "--queue", "h200", "--queue", "vgen.gpu.b200", "--all")

    assert outcome.code == 0
    assert "no live worker serves vgen.gpu.b200" in outcome.err
    shown = vgen("status", "--json").json
    assert shown["paused_queues"] == ["*", "vgen.gpu.b200", "vgen.gpu.h200"]
    assert shown["workers"][0]["paused_queues"] == ["vgen.gpu.h200", "vgen.io"]
    assert "vgen resume --all" in vgen("status").out

    vgen("resume", "--all")
    shown = vgen("status", "--json").json
    assert shown["workers"][0]["paused_queues"] == ["vgen.gpu.h200"]
    assert "vgen.gpu.h200 is still paused" in vgen("resume", "latest").err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "name what to pause"),
        (("nosuchbatch",), "'nosuchbatch' does not exist"),
        (("--queue", "H 200"), "--queue: 'H 200' is not a queue"),
        (("--queue", "vgen.gqu"), "'vgen.gqu' is not a queue"),
    ],
)
def test_what_cannot_be_paused_is_refused(home: Home, vgen: Vgen, arguments: tuple[str, ...], complaint: str) -> None:
    outcome = vgen("pause", *arguments)

    assert (outcome.code, complaint in outcome.err) == (2, True), outcome.err


@pytest.mark.parametrize("halt", ["batch", "everything", "budget"])
def test_watch_ends_with_3_when_only_a_person_can_let_it_go_on(home: Home, vgen: Vgen, halt: str) -> None:
    if halt == "budget":
        database = home.database()
        with database.transaction() as session:  # every job waits for a GPU
            cancel_retry_approve.cancel_all(session, home.job_ids[1:])
        database.close()
        _to_generate(home, home.job_ids[0])
        _batch(home, max_gpu_ms=1000, gpu_ms=2000, over_budget=True)
    else:
        vgen("pause", *(["latest"] if halt == "batch" else ["--all"]))

    outcome = vgen("watch")

    assert outcome.code == 3
    assert "no longer waiting" in outcome.err
    said = {"batch": "the batch is paused", "everything": "everything is paused", "budget": "its budget is used up"}
    assert said[halt] in outcome.err


def _to_generate(home: Home, job_id: str) -> None:
    database = home.database()
    with database.transaction() as session:
        session.execute(update(Step).where(Step.job_id == job_id).values(stage=Stage.GENERATE))
    database.close()


def test_a_deadline_and_a_budget_are_stored_and_changed(prompts: Path, home: Home, vgen: Vgen) -> None:
    stored = vgen("submit", prompts, "--again", "--by", "+3h", "--max-gpu-hours", "0.5", "--json").json
    batch_id, before = stored["batch"]["id"], stored["batch"]

    assert before["deadline_at"] is not None
    assert (before["max_gpu_hours"], before["max_cost"]) == (0.5, None)
    assert any("no estimate yet" in text for text in stored["notices"])

    assert vgen("budget", batch_id, "--max-gpu-hours", "2").code == 0
    after = vgen("budget", batch_id, "--by", "none", "--json").json["batch"]
    assert (after["max_gpu_hours"], after["deadline_at"]) == (2.0, None)
    assert "GPU seconds\t0.0 of 7200" in vgen("status", batch_id).out


def test_a_raised_budget_is_no_longer_used_up(home: Home, vgen: Vgen) -> None:
    _batch(home, max_gpu_ms=1000, gpu_ms=2000, over_budget=True)
    assert f"vgen budget {home.batch_id}" in vgen("status").out

    vgen("budget", home.batch_id, "--max-gpu-hours", "1")

    assert vgen("status", "--json").json["batch"]["over_budget"] is False


def test_submitting_again_with_other_limits_says_that_they_stay(home: Home, vgen: Vgen) -> None:
    outcome = vgen("submit", home.file, "--by", "+1h")

    assert outcome.code == 0
    assert "`vgen budget` changes them" in outcome.err
    assert vgen("status", "--json").json["batch"]["deadline_at"] is None


@pytest.mark.parametrize(
    ("prices", "arguments", "complaint"),
    [
        (None, ("--by", "later"), "--by: 'later' is not a valid time"),
        (None, ("--by", "2001-01-01T00:00"), "--by: '2001-01-01T00:00' is in the past"),
        (None, ("--max-gpu-hours", "0"), "--max-gpu-hours: 0 is not possible"),
        (None, ("--max-gpu-hours", "nan"), "--max-gpu-hours: nan is not possible"),
        (None, ("--max-cost", "5"), "--max-cost: needs prices"),
        ("h200=3", ("--max-cost", "5", "--gpu", "b200"), "--max-cost: GPU type b200 has no price"),
        ("h200=x", ("--max-cost", "5"), "VGEN_PRICES"),
    ],
)
def test_limits_that_cannot_be_are_refused_and_nothing_is_stored(
    prompts: Path,
    home: Home,
    vgen: Vgen,
    monkeypatch: pytest.MonkeyPatch,
    prices: str | None,
    arguments: tuple[str, ...],
    complaint: str,
) -> None:
    if prices is not None:
        monkeypatch.setenv("VGEN_PRICES", prices)

    outcome = vgen("submit", prompts, "--again", *arguments)

    assert (outcome.code, complaint in outcome.err) == (2, True), outcome.err
    monkeypatch.delenv("VGEN_PRICES", raising=False)
    assert len(vgen("list", "--json").json["batches"]) == 1


def test_cancel_and_retry_by_label_and_by_error(tmp_path: Path, home: Home, vgen: Vgen) -> None:
    file = tmp_path / "labelled.jsonl"
    file.write_text('{"prompt": "a", "labels": {"shot": "1"}}\n{"prompt": "b", "labels": {"shot": "2"}}\n', "utf-8")
    batch_id = vgen("submit", file, "--json").json["batch"]["id"]
    first, second = f"{batch_id}-000000", f"{batch_id}-000001"

    assert vgen("cancel", "--label", "shot=2", "--json").json["changed"] == [second]
    assert vgen("retry", batch_id, "--label", "shot", "--json").json["changed"] == [second]
    home.end(first, JobState.FAILED, error_code="generator_died", error="it died")
    home.end(home.job_ids[0], JobState.FAILED, error_code="refused", error="no")
    assert vgen("retry", "--code", "generator_died", "--json").json["changed"] == [first]
    assert vgen("retry", "latest", "--code", "refused", "--json").json["changed"] == []
    assert "1 job queued again" in vgen("retry", home.batch_id).out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("cancel",), "name the jobs"),
        (("cancel", "--label", "=x"), "--label: '=x' is not of the form"),
        (("retry", "JOB", "--code", "refused"), "is a job"),
    ],
)
def test_a_choice_that_means_nothing_is_refused(
    home: Home, vgen: Vgen, arguments: tuple[str, ...], complaint: str
) -> None:
    outcome = vgen(*(home.job_ids[0] if part == "JOB" else part for part in arguments))

    assert (outcome.code, complaint in outcome.err) == (2, True), outcome.err
    assert vgen("status", "--json").json["batch"]["counts"]["waiting"] == 3


def test_what_no_worker_can_run_is_in_the_status(prompts: Path, home: Home, vgen: Vgen) -> None:
    vgen("submit", prompts, "--again", "--gpu", "h200")
    assert vgen("status", "--json").json["outlook"]["stuck"] == [], "nobody is at work in a solo home: that is usual"

    _worker(home, "vgen.gpu.cpu", "vgen.cpu", "vgen.io")

    assert [(item["jobs"], item["gpu"]) for item in vgen("status", "--json").json["outlook"]["stuck"]] == [
        (3, ["h200"])
    ]
    assert "3 jobs wait for a GPU type that no live worker has: h200" in vgen("status").out
