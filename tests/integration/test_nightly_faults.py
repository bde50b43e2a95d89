"""Nights that go wrong: each ends with a sentence, is written down once, and spoils no other night."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from db.clips import cancel_retry_approve, deletion
from db.evals import runs
from db.evals.clips import REFERENCE
from db.session import Database
from pipeline.errors import InputError, NotFoundError
from pipeline.settings import Settings
from pipeline.wiring import make_storage
from tasks.upkeep import nightly
from tests.integration.test_nightly import FLICKER, _encoded, _night, _runs, app, database, settings, vgen
from tests.line_helpers import job_list, work_off
from tests.unit.cli.conftest import Vgen

__all__ = ["app", "database", "settings", "vgen"]
LIKENESS = {"metrics": (FLICKER, "common.psnr"), "margins": {FLICKER: 0.9, "common.psnr": 60.0}}


def _begin(settings: Settings, database: Database, **changes: object) -> tuple[str, str]:
    plan = nightly.with_options(nightly.Plan.of_settings(settings), **changes)
    return nightly.submit(database, settings, plan)


def _verdict(database: Database, run_id: str) -> dict[str, Any]:
    with database.reading() as session:
        return dict((runs.get_run(session, run_id).summary or {}).get(runs.VERDICT, {}))


def test_the_beat_says_what_a_first_night_can_detect_where_people_look(
    app: Celery, database: Database, settings: Settings, vgen: Vgen, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv("VGEN_HOME", str(settings.home))
    with caplog.at_level(logging.INFO):
        app.tasks["vgen.nightly"].apply(throw=True)

    # Then its row, its log, and the commands have it before a clip is made
    (run,) = _runs(database)
    sentences = (run.suite or {})[runs.DETECTABLE]
    assert sentences[0].startswith(f"{FLICKER} (gated): 2 prompts (fewer than the 40 recommended) detect a loss")
    (record,) = [record for record in caplog.records if record.getMessage() == "nightly evaluation begun"]
    assert (vars(record)["run"], vars(record)["detectable"]) == (run.id, sentences)
    assert f"{run.id}: {sentences[0]}" in vgen("eval", "runs").err
    assert sentences[0] in vgen("eval", "scores", run.id).err

    # When it has ended, its report has it too
    work_off(settings, database, run.batch_id)
    app.tasks["vgen.verdicts"].apply(throw=True)
    verdict = _verdict(database, run.id)
    page, text = (make_storage(settings).read_bytes(verdict["reports"][form]).decode() for form in ("html", "md"))
    assert "What this suite can detect" in page
    assert sentences[0] in text
    assert "no_calibration" in vgen("eval", "runs").out


def test_a_deleted_baseline_begins_a_new_history_and_not_an_endless_row_of_incomplete_nights(
    settings: Settings, database: Database
) -> None:
    first, _ = _night(settings, database, **LIKENESS)
    with database.reading() as session:
        batch_id = runs.get_run(session, first).batch_id
    with database.transaction() as session:
        deletion.request(session, job_list(database, batch_id)[0].id, by="a test")

    _, verdict = _night(settings, database, **LIKENESS)
    assert (verdict["state"], verdict["first"]) == ("no_calibration", True)
    assert "still has its clips" in verdict["meaning"]

    _, verdict = _night(settings, database, **LIKENESS)
    assert verdict["state"] == "identical"


def test_a_pinned_baseline_that_cannot_be_compared_with_is_refused_before_a_clip_is_made(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    first, _ = _night(settings, database)
    other = tmp_path / "ältere Suite 夜.json"
    other.write_text(json.dumps([{"prompt_en": f"naïve {n}", "dimension": ["temporal_flickering"]} for n in range(2)]))
    with pytest.raises(InputError, match=f"baseline: evaluation run {first} is of another suite"):
        _begin(settings, database, suite=other, baseline=first)
    with pytest.raises(NotFoundError, match="'e0' does not exist"):
        _begin(settings, database, baseline="e0")

    with database.reading() as session:
        batch_id = runs.get_run(session, first).batch_id
    with database.transaction() as session:
        for job in job_list(database, batch_id):
            deletion.request(session, job.id, by="a test")
    with pytest.raises(InputError, match="has no published clips any more"):
        _begin(settings, database, baseline=first)
    assert len(_runs(database)) == 1


def test_a_night_that_cannot_be_judged_says_so_and_the_next_one_is_judged(
    app: Celery, settings: Settings, database: Database
) -> None:
    # Given a night whose baseline is gone since, and a sound one after it
    lost, batch_id = _begin(settings, database)
    work_off(settings, database, batch_id)
    with database.transaction() as session:
        run = runs.get_run(session, lost)
        run.suite = {**(run.suite or {}), "baseline": "e0"}
    sound, batch_id = _begin(settings, database, margins={FLICKER: 0.2})
    assert sound != lost
    work_off(settings, database, batch_id)

    app.tasks["vgen.verdicts"].apply(throw=True)

    verdict = _verdict(database, lost)
    assert (verdict["state"], verdict["passed"]) == ("incomplete", False)
    assert verdict["meaning"] == (
        "The night could not be judged: evaluation run 'e0' does not exist; `vgen eval runs` shows them"
    )
    assert _verdict(database, sound)["first"]


def test_a_report_that_cannot_be_stored_leaves_no_verdict_and_the_same_command_goes_on(
    app: Celery, settings: Settings, database: Database, vgen: Vgen, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a store in which the reports' folder cannot be made
    monkeypatch.setenv("VGEN_HOME", str(settings.home))
    for name in ("preset", "suite", "seeds", "metrics", "margins"):
        monkeypatch.setenv(f"VGEN_NIGHTLY_{name.upper()}", str(getattr(settings.nightly, name)))
    obstacle = settings.home / "storage" / "reports"
    obstacle.parent.mkdir(parents=True, exist_ok=True)
    obstacle.write_text("not a folder")

    outcome = vgen("eval", "nightly")
    assert (outcome.code != 0, str(obstacle) in outcome.err, "Traceback" in outcome.err) == (True, True, False)
    app.tasks["vgen.verdicts"].apply(throw=True)
    (run,) = _runs(database)
    assert _verdict(database, run.id) == {}

    # When there is room again, the clips are not made once more
    obstacle.unlink()
    outcome = vgen("eval", "nightly")
    assert outcome.code == 3
    (again,) = _runs(database)
    assert again.id == run.id
    assert _verdict(database, run.id)["first"]


def test_a_night_that_goes_on_is_judged_by_the_margins_of_the_command_that_goes_on_with_it(
    settings: Settings, database: Database
) -> None:
    run_id, _ = _begin(settings, database)
    assert _begin(settings, database, margins={FLICKER: 0.4})[0] == run_id
    with database.reading() as session:
        suite = runs.get_run(session, run_id).suite or {}
    assert suite["margins"] == {FLICKER: 0.4}
    assert suite[runs.DETECTABLE]


def test_a_night_that_lacks_a_clip_compares_the_rest(settings: Settings, database: Database) -> None:
    first, _ = _night(settings, database, **LIKENESS)
    worse = _encoded(settings, quality=51)
    run_id, batch_id = _begin(worse, database, **LIKENESS)
    with database.transaction() as session:
        cancel_retry_approve.cancel(session, job_list(database, batch_id)[0].id)
    work_off(worse, database, batch_id)
    with database.transaction() as session:
        runs.settle(session)

    verdict = nightly.judge(database, make_storage(settings), run_id)

    assert (verdict["state"], verdict["passed"], verdict["baseline"]) == ("incomplete", False, first)
    text = make_storage(settings).read_bytes(verdict["reports"]["md"]).decode()
    assert "The night is not complete: 1 of 2 clips are missing." in text
    assert "| common.psnr |" in text


def test_a_night_without_any_clip_has_a_report_that_says_so(settings: Settings, database: Database) -> None:
    run_id, batch_id = _begin(settings, database)
    with database.transaction() as session:
        for job in job_list(database, batch_id):
            cancel_retry_approve.cancel(session, job.id)
        runs.settle(session)

    verdict = nightly.judge(database, make_storage(settings), run_id)

    assert (verdict["state"], verdict["passed"]) == ("incomplete", False)
    assert verdict["meaning"] == "The night is not complete: 2 of 2 clips are missing."
    assert "2 of 2 clips are missing" in make_storage(settings).read_bytes(verdict["reports"]["html"]).decode()


def test_a_clock_that_was_set_back_does_not_lose_the_baseline(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = _night(settings, database)
    # Runs are numbered by the time: this one's id sorts before that of the night before
    monkeypatch.setattr("pipeline.ids.time.time_ns", lambda: 1_000_000_000_000_000_000)
    second, batch_id = _begin(settings, database)
    monkeypatch.undo()
    assert second < first
    work_off(settings, database, batch_id)
    with database.transaction() as session:
        runs.settle(session)
        assert (runs.get_run(session, second).suite or {})[REFERENCE] == first

    assert nightly.judge(database, make_storage(settings), second)["state"] == "identical"


def test_a_suite_that_changed_since_is_not_repeated_and_the_first_seeds_decide(
    app: Celery, settings: Settings, database: Database
) -> None:
    run_id, batch_id = _begin(settings, database, repeat_seeds="2")
    work_off(settings, database, batch_id)
    assert settings.nightly.suite is not None
    settings.nightly.suite.write_text(json.dumps([{"prompt_en": "other", "dimension": ["temporal_flickering"]}]))

    app.tasks["vgen.verdicts"].apply(throw=True)

    assert _verdict(database, run_id)["first"]
    assert len(_runs(database)) == 1


def test_a_run_is_not_compared_with_itself(
    settings: Settings, database: Database, vgen: Vgen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_HOME", str(settings.home))
    assert "there is no evaluation run yet" in vgen("eval", "compare", "latest", "latest").err
    run_id, _ = _night(settings, database)

    # One that is still open is not the latest: it has no clips yet
    nightly.submit(database, settings, nightly.Plan.of_settings(settings))
    for baseline in (run_id, "latest"):
        outcome = vgen("eval", "compare", baseline, "latest")
        assert (outcome.code, f"are both evaluation run {run_id}: give two different runs" in outcome.err) == (2, True)
