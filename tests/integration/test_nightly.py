"""The nightly evaluation as its tasks and people start it; a whole night through a cluster is in test_cluster.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from db.clips import cancel_retry_approve, deletion
from db.evals import runs
from db.models import EvalRun, Score
from db.session import Database
from pipeline.errors import SettingsError
from pipeline.policy.routes import IO_QUEUE
from pipeline.settings import NightlySettings, Settings
from pipeline.states import EvalState
from pipeline.wiring import make_storage
from service.views.evals import EvalRunStateView
from tasks.app import make_app
from tasks.upkeep import nightly
from tasks.upkeep.schedule import beat_schedule
from tasks.worker import contexts
from tasks.worker.context import WorkerContext
from tests.data.vbench_oracle import tiny_weights
from tests.line_helpers import home_of, job_list, settings_for, work_off
from tests.unit.cli.conftest import Vgen, vgen

__all__ = ["vgen"]
FLICKER, CLIP_SCORE = "vbench.temporal_flickering", "text.clip_score"


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
        (("--margin", f"{FLICKER}=much"), 2, "a margin is NAME=VALUE, where VALUE is a number"),
        (("--metrics", "vbench.color"), 2, "scored by another program"),
        (("--baseline", "e0"), 2, "evaluation run 'e0' does not exist"),
        ((settings.home / "none.json",), 2, "cannot be read"),
        (
            ("--metrics", "checks", "--margin", "common.ssim>=0.9"),
            2,
            "margin: common.ssim is not among the night's metrics",
        ),
    ):
        outcome = vgen("eval", "nightly", *arguments)
        assert (message in outcome.err, "Traceback" in outcome.err) == (True, False), outcome
        assert outcome.code == code


def _night(settings: Settings, database: Database, **changes: object) -> tuple[str, dict[str, Any]]:
    """A night from its clips to its verdict: its run, and the verdict."""
    plan = nightly.with_options(nightly.Plan.of_settings(settings), **changes)
    run_id, batch_id = nightly.submit(database, settings, plan)
    work_off(settings, database, batch_id)
    with database.transaction() as session:
        runs.settle(session)
    return run_id, nightly.judge(database, make_storage(settings), run_id)


def _encoded(settings: Settings, **encode: object) -> Settings:
    return settings.model_copy(update={"encode": settings.encode.model_copy(update=encode)})


def test_a_worse_encode_is_seen_the_first_night_and_an_unchanged_night_is_identical(
    settings: Settings, database: Database
) -> None:
    # Given a first night, which has nothing to be compared with
    likeness = {"metrics": (FLICKER, "common.psnr", "common.ssim"), "margins": {"common.psnr": 60.0}}
    first, verdict = _night(settings, database, **likeness)
    assert verdict["first"]

    # When nothing changes, no score is needed
    again, verdict = _night(settings, database, **likeness)
    assert (again != first, verdict["state"], verdict["passed"]) == (True, "identical", True)

    # When only the encoder's settings change, the raw frames are the same, and the clips are compared
    worse, verdict = _night(_encoded(settings, quality=51), database, **likeness)
    with database.reading() as session:
        run = runs.get_run(session, worse)
        assert (run.suite or {})["reference"] == again
        scores = [record["scores"] for record in runs.records_of(session, run.batch_id)]
    assert all(0 < one["common.psnr"]["score"] < 100 for one in scores)
    assert all("reference" in one["common.ssim"]["details"]["scorer"] for one in scores)
    assert verdict["state"] != "identical"
    assert any(change.startswith("encode.") and change.endswith(" → 51") for change in verdict["changed"])
    page = make_storage(settings).read_bytes(verdict["reports"]["html"]).decode()
    assert "common.psnr" in page
    assert "data:image/jpeg;base64," in page


def test_a_night_that_is_accepted_is_the_baseline_of_later_ones(
    settings: Settings, database: Database, vgen: Vgen, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a history that a wanted change does not pass
    likeness = {"metrics": (FLICKER, "common.psnr"), "margins": {"common.psnr": 60.0, FLICKER: 0.5}}
    coarse = _encoded(settings, quality=51)
    for _ in range(2):
        _night(settings, database, **likeness)
    changed, verdict = _night(coarse, database, **likeness)
    assert not verdict["passed"]
    monkeypatch.setenv("VGEN_HOME", str(settings.home))

    # When somebody accepts it, twice
    reason = "x264 at quality 51 — agreed"
    said = vgen("eval", "accept", changed, "--reason", reason)
    assert (said.code, said.out.strip()) == (
        0, f"later nights are compared with {changed}, not with the nights before it",
    )  # fmt: skip
    assert "are already compared" in vgen("eval", "accept", changed).out
    view = EvalRunStateView.model_validate_json(vgen("eval", "accept", changed, "--json").out)
    accepted = view.summary[runs.VERDICT][runs.ACCEPTED]
    assert (accepted["reason"], accepted["by"]) == (reason, settings.owner)
    assert reason in vgen("eval", "scores", changed).out

    # Then the next night is compared with it alone, and passes if it is like it, and not if it is like those before
    later, verdict = _night(coarse, database, **likeness)
    with database.reading() as session:
        assert (runs.get_run(session, later).suite or {})["reference"] == changed
    assert (verdict["state"], verdict["passed"], verdict["baseline"]) == ("identical", True, changed)
    _, verdict = _night(settings, database, **likeness)
    assert not verdict["passed"]
    assert [run_id for run_id, _ in nightly.past_nights(database, "idle", 9)][:2] == [changed, later]


def test_what_cannot_be_accepted_is_said(
    settings: Settings, database: Database, vgen: Vgen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_HOME", str(settings.home))
    plan = nightly.with_options(nightly.Plan.of_settings(settings))
    begun, batch_id = nightly.submit(database, settings, plan)
    cases = {"e1no-such": "does not exist", begun: "has no verdict yet"}
    with database.transaction() as session:
        other = runs.open_run(session, batch_id, kind="batch", metrics=(FLICKER,))
    cases[other] = f"evaluation run {other} is of the kind batch"
    for run_id, message in cases.items():
        said = vgen("eval", "accept", run_id)
        assert (said.code != 0, message in said.err, "Traceback" in said.err) == (True, True, False), said

    # And a night of which a clip was deleted
    work_off(settings, database, batch_id)
    with database.transaction() as session:
        runs.settle(session)
    nightly.judge(database, make_storage(settings), begun)
    with database.transaction() as session:
        deletion.request(session, job_list(database, batch_id)[0].id, by="a test")
    said = vgen("eval", "accept", begun)
    assert (said.code != 0, "lacks clips" in said.err) == (True, True), said


def test_a_night_whose_reference_is_gone_says_so_and_scores_the_rest(settings: Settings, database: Database) -> None:
    likeness = {"metrics": (FLICKER, "common.psnr"), "margins": {FLICKER: 0.1, "common.psnr": 60.0}}
    first, _ = _night(settings, database, **likeness)
    with database.reading() as session:
        lost = runs.records_of(session, runs.get_run(session, first).batch_id)[0]["video"]
    make_storage(settings).delete(lost)

    _, verdict = _night(_encoded(settings, quality=51), database, **likeness)

    assert verdict["state"] == "incomplete"
    report = json.loads(make_storage(settings).read_bytes(verdict["reports"]["json"]))
    by_name = {metric["name"]: metric for metric in report["metrics"]}
    assert by_name["common.psnr"]["reason"] == (
        f"1 clips could not be compared with the baseline's: the reference {lost} is not in the store"
    )
    assert by_name[FLICKER]["candidate"] is not None


def _upgraded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of a library that decides every score."""
    monkeypatch.setattr("pipeline.scoring.run.version", lambda name: f"99 of {name}")


def test_an_upgrade_of_the_scorer_has_the_baselines_scored_again_and_keeps_both(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a night that was scored before the upgrade
    storage, plan = make_storage(settings), {"margins": {FLICKER: 0.9}}
    first, _ = _night(settings, database, **plan)

    # When a night after it has other clips and another scorer
    _upgraded(monkeypatch)
    second, verdict = _night(_encoded(settings, quality=51), database, **plan)
    assert (verdict["state"], verdict["rescore"]) == ("other_fingerprint", True)
    begun = nightly.submit_rescores(database, second)
    assert begun == nightly.submit_rescores(database, second)
    assert nightly.judge(database, storage, second)["rescore"]  # it is still open
    ((rescore, batch_id),) = begun
    work_off(settings, database, batch_id)
    with database.transaction() as session:
        runs.settle(session)
    verdict = nightly.judge(database, storage, second)

    # Then it is compared, and says what was done
    assert "rescore" not in verdict
    (again,) = verdict["rescored"]
    assert (again["run"], again["by"], again["complete"]) == (first, rescore, True)
    ways = again["metrics"][FLICKER]
    assert [way["numpy"] == "99 of numpy" for way in (ways["before"][0], ways["now"][0])] == [False, True]
    report = storage.read_bytes(verdict["reports"]["md"]).decode()
    assert f"Run {first} was scored again by this night's scorer ({FLICKER})" in report
    (metric,) = json.loads(storage.read_bytes(verdict["reports"]["json"]))["metrics"]
    assert metric["state"] != "other_fingerprint"
    with database.reading() as session:
        kept = session.query(Score).filter(Score.metric == FLICKER).count()
    assert kept == 2 * 2 + 2


def test_a_baseline_that_cannot_be_scored_again_is_compared_with_no_more(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = _night(settings, database)
    with database.reading() as session:
        lost = runs.records_of(session, runs.get_run(session, first).batch_id)[0]["video"]
    make_storage(settings).delete(lost)
    _upgraded(monkeypatch)
    second, verdict = _night(_encoded(settings, quality=51), database)
    ((_, batch_id),) = nightly.submit_rescores(database, second)
    work_off(settings, database, batch_id)
    with database.transaction() as session:
        runs.settle(session)

    verdict = nightly.judge(database, make_storage(settings), second)

    assert (verdict["state"], verdict["first"]) == ("no_calibration", True)
    assert verdict["meaning"].startswith(
        f"Run {first} could not be scored again in full ({FLICKER}): it is not compared"
    )


def test_a_baseline_that_met_a_worker_without_weights_is_compared_with_no_more(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Given nights that were scored with weights, the later by another scorer
    monkeypatch.setattr("pipeline.scoring.weights.try_to_load_from_cache", lambda *_: None)
    tiny_weights.write_all(tmp_path / "weights")
    able = settings.model_copy(update={"eval": settings.eval.model_copy(update={"weights_dir": tmp_path / "weights"})})
    plan = {"metrics": (CLIP_SCORE,), "margins": {CLIP_SCORE: 0.9}}
    first, _ = _night(able, database, **plan)
    _upgraded(monkeypatch)
    second, verdict = _night(_encoded(able, quality=51), database, **plan)
    assert verdict["rescore"]

    # When the worker that scores the first again has none
    ((rescore, batch_id),) = nightly.submit_rescores(database, second)
    work_off(settings, database, batch_id)
    with database.transaction() as session:
        runs.settle(session)
        ended = runs.get_run(session, rescore)
        assert (ended.state, (ended.summary or {})["metrics_without_weights"]) == (EvalState.INCOMPLETE, 1)

    # Then the night ends and says so, and what was scored before is still there
    verdict = nightly.judge(database, make_storage(settings), second)
    assert (verdict["state"], verdict["first"]) == ("no_calibration", True)
    assert (
        f"Run {first} could not be scored again in full ({CLIP_SCORE}): it is not compared with." in verdict["meaning"]
    )
    assert [one["complete"] for one in verdict["rescored"]] == [False]
    with database.reading() as session:
        kept = runs.records_of(session, runs.get_run(session, first).batch_id)
        ((_, (scored, missing, _, _)),) = runs.means(session, batch_id).items()
    assert all(record["scores"][CLIP_SCORE]["score"] is not None for record in kept)
    assert (scored, missing) == (2, 0)


def test_a_baseline_that_another_release_scored_again_is_compared_with_no_more(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = _night(settings, database)
    _upgraded(monkeypatch)
    second, _ = _night(_encoded(settings, quality=51), database)
    ((rescore, batch_id),) = nightly.submit_rescores(database, second)
    monkeypatch.setattr("pipeline.scoring.run.version", lambda name: f"98 of {name}")
    work_off(settings, database, batch_id)
    with database.transaction() as session:
        runs.settle(session)
        assert runs.get_run(session, rescore).state is EvalState.COMPLETE

    verdict = nightly.judge(database, make_storage(settings), second)

    assert (verdict["state"], verdict["first"]) == ("no_calibration", True)
    assert f"Run {first} could not be scored again" in verdict["meaning"]


def test_an_upgrade_does_not_matter_to_an_identical_night(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _night(settings, database)
    _upgraded(monkeypatch)
    _, verdict = _night(settings, database)
    assert (verdict["state"], verdict["passed"]) == ("identical", True)


def test_a_night_says_which_nights_had_other_options_and_what_changed(
    settings: Settings, database: Database, vgen: Vgen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_HOME", str(settings.home))
    earlier, _ = _night(settings, database)

    # When a night has other options, it says with which nights it is not compared, before and after
    other = (
        "eval",
        "nightly",
        str(settings.nightly.suite),
        *("--preset", "idle", "--seeds", "1", "--metrics", FLICKER),
    )
    outcome = vgen(*other, "--margin", f"{FLICKER}=0.1", "--num-frames", "9")
    sentence = (
        "One night of this suite and preset had other options (num_frames is not given there and 9 here): "
        f"{earlier}. `--baseline {earlier}` compares with the newest of them."
    )
    assert sentence in outcome.err
    assert sentence in outcome.out
    assert f"{FLICKER}\t2\t0" in outcome.out
    assert "report.html" in outcome.out

    # Then with that baseline what changed is said
    outcome = vgen(*other, "--margin", f"{FLICKER}=0.1", "--num-frames", "13", "--baseline", earlier)
    assert "num_frames" in next(line for line in outcome.out.splitlines() if line.startswith("changed"))
    assert "had other options" not in outcome.err


def test_what_a_night_can_detect_names_no_metric_that_cannot_be_computed_here(settings: Settings) -> None:
    plan = nightly.with_options(nightly.Plan.of_settings(settings), metrics=(FLICKER, "common"))
    text = "\n".join(nightly.before_the_night(plan, settings))
    assert [name in text for name in (FLICKER, "common.psnr", "common.lpips")] == [True, True, False]
    # A cluster's workers may have the weights that this process lacks
    cluster = settings.model_copy(update={"broker_url": "redis://127.0.0.1:1"})
    assert "common.lpips" in "\n".join(nightly.before_the_night(plan, cluster))


def test_first_nights_say_what_is_missing_and_past_ones_are_calibrated(
    settings: Settings, database: Database, vgen: Vgen, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No setting names the suite, seeds or metrics: the nights of the preset do
    monkeypatch.setenv("VGEN_HOME", str(settings.home))
    outcome = vgen("eval", "calibrate", "--preset", "idle")
    assert (outcome.code, "of preset 'idle'" in outcome.err, "no night is there" in outcome.err) == (2, True, True)

    # Given a night without margins
    first, verdict = _night(settings, database, margins={})
    assert verdict["advice"].startswith("no metric has a margin yet: after the next night")
    assert f"{first} is of suite suite.json with preset idle, seeds 1" in vgen("eval", "calibrate").err
    assert "nights are there of idle" in vgen("eval", "calibrate", "--preset", "wan").err

    # When another was encoded otherwise
    other, verdict = _night(_encoded(settings, quality=51), database, margins={})
    assert verdict["advice"] == "no metric has a margin yet: `vgen eval calibrate` proposes them from the nights so far"

    # Then that is no chance: both together are refused, with what differs
    for given in ((), (first, other)):
        outcome = vgen("eval", "calibrate", *given)
        assert (outcome.code, f"{first} and {other} differ in encode." in outcome.err) == (2, True)

    # When the next is like it, these two are looked at, and the first is left out
    _night(_encoded(settings, quality=51), database, margins={})
    outcome = vgen("eval", "calibrate", "--preset", "idle", "--json")
    (metric,) = outcome.json["metrics"]
    assert (outcome.code, len(outcome.json["runs"]), metric["prompts"]) == (3, 2, 2)
    assert f"left out: {first} and" in outcome.err
    assert metric["reason"].startswith("the runs do not differ in any score")
