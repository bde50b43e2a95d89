"""What a file would take, learnt from what was made before; and what the report says of it afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import insert

from cli.results.report import figures
from db.models import Batch, Job, StageRun, Step
from db.reading import clip_times, past_estimates
from db.session import Database
from pipeline.presets import measured
from pipeline.states import AttemptOutcome, JobState, Stage, StepState
from service.views.reports import ReportView
from tests.unit.cli.conftest import Home, Vgen

SECONDS = (10.0, 20.0, 30.0)


def _generated(database: Database, job_ids: list[str], gpu_type: str = "h200") -> None:
    """Attempts of these jobs that took SECONDS, and a resumed one, which is no measure; then their batch has ended."""
    now = 1_700_000_000_000
    with database.transaction() as session:
        for number, (job_id, seconds) in enumerate(zip(job_ids, SECONDS, strict=True)):
            step = session.query(Step).filter(Step.job_id == job_id).one()
            step.state, step.finished_at = StepState.DONE, now
            for attempt, length in ((1, seconds), (2, 0.5)):
                began = now + number * 100_000
                values = {"step_id": step.id, "job_id": job_id, "stage": Stage.GENERATE, "worker": "gpu0"}
                times = {"started_at": began, "ended_at": began + int(length * 1000)}
                queue = {"queue": f"vgen.gpu.{gpu_type}.tiny-wan", "attempt": attempt, "outcome": AttemptOutcome.DONE}
                session.execute(insert(StageRun).values(**values, **times, **queue))
            job = session.get_one(Job, job_id)
            job.state, job.finished_at, job.cancel_requested = JobState.CANCELLED, now, True
            session.get_one(Batch, job.batch_id).active = False


def test_a_plan_says_what_clips_of_this_shape_took_and_scales_others(
    home: Home, vgen: Vgen, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given three clips that took 10, 20 and 30 seconds on a type that this machine is said to have
    monkeypatch.setenv("VGEN_GPU_TYPE", "h200")
    monkeypatch.setenv("VGEN_PRICES", "h200=3.6")
    database = home.database()
    _generated(database, home.job_ids)

    same = vgen("plan", home.file, "--json").json["estimate"]
    longer = vgen("plan", home.file, "--num-inference-steps", "40", "--json").json["estimate"]
    steps = same["parts"][0]["num_inference_steps"]

    assert (same["gpu_seconds"], same["cost"]) == (60.0, pytest.approx(0.06))
    assert [same["parts"][0][name] for name in ("basis", "n", "p50_seconds", "gpu_type")] == [
        "measured",
        3,
        20.0,
        "h200",
    ]
    assert same["finished_at"] is not None
    assert longer["gpu_seconds"] == pytest.approx(60 * 40 / steps)
    assert longer["parts"][0]["basis"] == "scaled"

    # And the preset's own line and page say it, beside what others published
    listed = {row[0]: row for row in vgen("models", "list", "--all").rows}
    assert listed["tiny-wan"][5:7] == ["20 s (n 3)", "unknown"]
    assert listed["wan2.1-t2v-1.3b"][5:7] == ["not made yet", "240 s (RTX 4090)"]
    shown = vgen("models", "show", "tiny-wan", "--json").json["measured"]
    assert [(item["gpu_type"], item["basis"], item["n"], item["p50_seconds"]) for item in shown] == [
        ("h200", "measured", 3, 20.0)
    ]
    assert "20 s a clip on h200, n 3 (" in vgen("models", "show", "tiny-wan").out

    # When the file is submitted again, the batch keeps the estimate and the report shows it
    batch_id = vgen("submit", home.file, "--again", "--json").json["batch"]["id"]
    report = ReportView.model_validate(vgen("report", batch_id, "--json").json)
    assert report.estimated_gpu_seconds == 60.0
    assert "60.0; taken so far: 0.0" in dict(figures(report))["estimated GPU seconds"]

    # And once it has ended, the next plan says how near that was
    _generated(database, [f"{batch_id}-{number:06d}" for number in range(3)])
    database.close()
    past = vgen("plan", home.file, "--json").json["calibration"]
    assert (past["batches"], past["near"], past["median_ratio"]) == (1, 1, pytest.approx(61.5 / 60, abs=0.001))


def test_without_history_a_bench_is_scaled_and_without_one_that_is_said(
    vgen: Vgen, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_HOME", str(tmp_path / "fresh"))
    monkeypatch.setenv("VGEN_GPU_TYPE", "h200")
    unknown = vgen("submit", prompts, "--dry-run", "--json").json
    assert (unknown["estimate"]["gpu_seconds"], unknown["calibration"]) == (None, None)
    assert "vgen bench preset tiny-wan" in unknown["estimate"]["no_estimate"]

    part = unknown["estimate"]["parts"][0]
    size = {name: part[name] for name in ("width", "height", "num_frames")}
    clip = measured.PlainClip(gpu_type="h200", **size, steps=2 * part["num_inference_steps"], seconds=8.0)
    measured.write(tmp_path / "fresh" / "presets", "tiny-wan", clip)

    measured_here = vgen("models", "show", "tiny-wan", "--json").json["measured"]
    assert [(item["basis"], item["n"], item["p50_seconds"]) for item in measured_here] == [("bench", 1, 8.0)]
    scaled = vgen("submit", prompts, "--dry-run", "--json").json["estimate"]
    assert (scaled["gpu_seconds"], scaled["parts"][0]["basis"]) == (12.0, "bench")


def test_what_a_batch_takes_around_its_clips_does_not_grow_with_it(
    home: Home, vgen: Vgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given three clips of one second each, one after the other, after five seconds of loading and before half a second
    monkeypatch.setenv("VGEN_GPU_TYPE", "h200")
    database = home.database()
    now, first = 1_700_000_000_000, 1_700_000_005_000
    runs = [(home.job_ids[0], Stage.SCREEN, now, now + 10)]
    runs += [(job, Stage.GENERATE, first + 1000 * n, first + 1000 * n + 1000) for n, job in enumerate(home.job_ids)]
    runs += [(home.job_ids[2], Stage.PUBLISH, first + 3400, first + 3500)]
    with database.transaction() as session:
        for job_id, stage, began, ended in runs:
            step = session.query(Step).filter(Step.job_id == job_id).one()
            step.state, step.finished_at = StepState.DONE, now
            attempt = {Stage.GENERATE: 1, Stage.SCREEN: 2, Stage.PUBLISH: 3}[stage]  # there is one step's row of each
            values = {"step_id": step.id, "job_id": job_id, "stage": stage, "worker": "w", "attempt": attempt}
            values |= {"queue": "vgen.gpu.h200.tiny-wan", "outcome": AttemptOutcome.DONE}
            session.execute(insert(StageRun).values(**values, started_at=began, ended_at=ended))
            job = session.get_one(Job, job_id)
            job.state, job.finished_at, job.cancel_requested = JobState.CANCELLED, now, True
            session.get_one(Batch, job.batch_id).active = False

    # Then one clip is said to take those 5.5 seconds and one, and twenty clips the same and twenty
    for clips in (1, 20):
        file = tmp_path / f"{clips}.txt"
        file.write_text("".join(f"clip {number}\n" for number in range(clips)), "utf-8")
        assert vgen("plan", file, "--json").json["estimate"]["seconds"] == pytest.approx(5.5 + clips, abs=0.01)

    # And where another batch was at the GPU meanwhile, the wait for it is nothing that comes again
    other = vgen("submit", file, "--json").json["batch"]["id"]
    of_other = values | {"job_id": f"{other}-000000", "stage": Stage.GENERATE, "attempt": 4}
    with database.transaction() as session:
        session.execute(insert(StageRun).values(**of_other, started_at=now + 100, ended_at=now + 4_000))
        assert past_estimates.pace(session, {"tiny-wan"}) == past_estimates.Pace(0.0, 1.0)
    database.close()


def test_quantiles_are_those_of_the_seconds() -> None:
    times = clip_times.Times.of([float(n) for n in range(1, 12)])
    assert (times.n, times.mean, times.p50, times.p90) == (11, 6.0, 6.0, 10.0)
    assert clip_times.Times.of([4.0]).scaled(0.5) == clip_times.Times(1, 2.0, 2.0, 2.0)
