"""The nightly evaluation as its tasks and people start it; a whole night through a cluster is in test_cluster.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from db.clips import cancel_retry_approve
from db.evals import runs
from db.models import EvalRun
from db.session import Database
from pipeline.errors import SettingsError
from pipeline.policy.routes import IO_QUEUE
from pipeline.settings import NightlySettings, Settings
from pipeline.states import EvalState
from tasks.app import make_app
from tasks.upkeep.schedule import beat_schedule
from tasks.worker import contexts
from tasks.worker.context import WorkerContext
from tests.line_helpers import home_of, job_list, settings_for, work_off
from tests.unit.cli.conftest import Vgen, vgen

__all__ = ["vgen"]
FLICKER = "vbench.temporal_flickering"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    suite = tmp_path / "suite.json"
    suite.write_text(json.dumps([{"prompt_en": f"clip {n}", "dimension": ["temporal_flickering"]} for n in range(2)]))
    nightly = NightlySettings(
        crontab="30 1 * * *", preset="idle", suite=suite, seeds="1", metrics=FLICKER, margins=f"{FLICKER}=0.1"
    )
    return settings_for(tmp_path, nightly=nightly)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    with home_of(settings) as opened:
        yield opened


@pytest.fixture
def app(settings: Settings, database: Database) -> Iterator[Celery]:
    """Whose periodic tasks are done by this process."""
    made = make_app()
    contexts.adopt(made, WorkerContext("io", settings, queues=(IO_QUEUE,), stopping=lambda: None, database=database))
    yield made
    contexts.drop(made)


def _runs(database: Database) -> list[EvalRun]:
    with database.reading() as session:
        return list(runs.runs(session))


def test_the_beat_starts_it_once_a_night_and_its_verdict_is_written_once(
    app: Celery, settings: Settings, database: Database
) -> None:
    # Given two beats
    for _ in range(2):
        app.tasks["vgen.nightly"].apply(throw=True)
    (run,) = _runs(database)
    assert (run.kind, run.state, run.expected) == ("nightly", EvalState.OPEN, 2)
    app.tasks["vgen.verdicts"].apply(throw=True)
    assert _runs(database)[0].summary is None

    # When its clips are there
    work_off(settings, database, run.batch_id)
    for _ in range(2):
        app.tasks["vgen.verdicts"].apply(throw=True)

    # Then the first night is what the next is compared with
    (run,) = _runs(database)
    assert run.summary is not None
    verdict = run.summary["verdict"]
    assert (run.state, verdict["state"], verdict["first"]) == (EvalState.COMPLETE, "no_calibration", True)
    assert [(one["preset"], one["gpu_type"]) for one in verdict["speed"]] == [("idle", "cpu")]


def test_a_night_with_a_missing_clip_is_incomplete(app: Celery, database: Database) -> None:
    app.tasks["vgen.nightly"].apply(throw=True)
    (run,) = _runs(database)
    for job in job_list(database, run.batch_id):
        with database.transaction() as session:
            cancel_retry_approve.cancel(session, job.id)

    app.tasks["vgen.verdicts"].apply(throw=True)

    (run,) = _runs(database)
    assert run.summary is not None
    assert (run.state, run.summary["verdict"]["state"]) == (EvalState.INCOMPLETE, "incomplete")
    assert run.summary["verdict"]["passed"] is False


def test_a_crontab_that_is_none_is_said() -> None:
    schedule = beat_schedule(Settings(nightly=NightlySettings(crontab="30 1 * * *")))
    assert set(schedule) == {"sweep", "nightly", "verdicts"}
    assert set(beat_schedule(Settings())) == {"sweep"}

    for wrong in ("at noon", "99 1 * * *"):
        with pytest.raises(SettingsError, match="VGEN_NIGHTLY_CRONTAB"):
            beat_schedule(Settings(nightly=NightlySettings(crontab=wrong)))


def test_what_cannot_be_is_said(vgen: Vgen, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_HOME", str(settings.home))
    for arguments, code, message in (
        (("--margin", "vbench.none=1"), 2, "--margin: 'vbench.none' is not a metric"),
        (("--margin", f"{FLICKER}=much"), 2, "a margin is NAME=VALUE with a number"),
        (("--metrics", "vbench.color"), 2, "scored by another program"),
        (("--baseline", "e0"), 2, "evaluation run 'e0' does not exist"),
        ((settings.home / "none.json",), 2, "cannot be read"),
    ):
        outcome = vgen("eval", "nightly", *arguments)
        assert (message in outcome.err, "Traceback" in outcome.err) == (True, False), outcome
        assert outcome.code == code
