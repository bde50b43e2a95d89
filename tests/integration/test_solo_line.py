"""The whole line in one process: prompt files in, published clips out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from cli.main import run
from cli.options import BatchChoices
from db.clips import cancel_retry_approve
from db.models import Event
from pipeline.settings import load_settings
from pipeline.states import AttemptOutcome, JobState, Stage
from tests.line_helpers import (
    IDLE,
    artifacts_of,
    assert_published_once,
    cancel,
    denoises,
    generating,
    home_of,
    job_list,
    job_states,
    left_in_handoff,
    runs_of,
    settings_for,
    sidecar_of,
    solo,
    states,
    submit,
    until,
    until_settled,
    work_off,
)
from tests.loras import write_lora
from tests.unit.pipeline.safety.fasttext_file import write_safety_classifier

SUCCEEDED, FAILED, CANCELLED = JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED
STAGES = [Stage.SCREEN, Stage.GENERATE, Stage.ENCODE, Stage.PUBLISH]
TINY = {"preset": "tiny-wan", "num_frames": 5, "width": 64, "height": 48, "num_inference_steps": 2}


def test_prompts_of_two_models_become_published_clips_and_nothing_is_left_over(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    write_lora(tmp_path / "style.safetensors")
    kite = {"prompt": "a red kite", "seed": 7, **TINY}
    lines: list[dict[str, Any]] = [
        {**kite, "priority": 2},
        {"prompt": "naïve 雨 🐈", **IDLE},
        {"prompt": "x", **IDLE},
        {**kite, "priority": 1, "lora": "style.safetensors@0.8"},
        kite,
    ]
    with home_of(settings) as database:
        batch_id = submit(settings, database, lines)
        (tmp_path / "style.safetensors").unlink()  # the submitter's disk is not the worker's

        work_off(settings, database, batch_id)

        assert job_states(database, batch_id) == [SUCCEEDED] * 5
        assert_published_once(settings, database, batch_id)
        assert left_in_handoff(settings) == []
        for job in job_list(database, batch_id):
            runs = runs_of(database, job.id)
            assert [(run.stage, run.attempt) for run in runs] == [(stage, 1) for stage in STAGES]
            assert {run.outcome for run in runs[1:]} == {AttemptOutcome.DONE}
        first, _, _, styled, after = job_list(database, batch_id)
        sidecar = sidecar_of(settings, database, first.id)
        assert sidecar_of(settings, database, after.id)["frames"] == sidecar["frames"]
        with_lora = sidecar_of(settings, database, styled.id)
        assert with_lora["frames"] != sidecar["frames"]
        assert [(lora["name"], lora["scale"]) for lora in with_lora["loras"]] == [("style.safetensors", 0.8)]
        assert with_lora["numerics"]["peft"] == with_lora["software"]["peft"]
        assert (sidecar["request"]["seed"], sidecar["request"]["prompt"]) == (7, "a red kite")
        assert sidecar["model"]["random_weights"] is True
        assert sidecar["files"]["video"]["sha256"] == artifacts_of(database, first.id)["video"].sha256
        assert {"torch", "diffusers", "ffmpeg"} <= sidecar["software"].keys()


def test_a_line_that_cannot_run_fails_alone(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    lines = [{"prompt": "a", **IDLE}, {"prompt": "b", "preset": "wan2.1-t2v-1.3b"}, {"prompt": "c", **IDLE}]
    with home_of(settings) as database:
        batch_id = submit(settings, database, lines)

        work_off(settings, database, batch_id)

        assert job_states(database, batch_id) == [SUCCEEDED, FAILED, SUCCEEDED]
        failed = job_list(database, batch_id)[1]
        assert failed.error_code == "model_missing"
        assert "pull" in str(failed.error)
        assert_published_once(settings, database, batch_id)
        assert left_in_handoff(settings) == []


def test_unsafe_prompts_are_blocked_and_the_others_made(tmp_path: Path) -> None:
    safety = {"classifier": write_safety_classifier(tmp_path / "safety.bin")}
    settings = settings_for(tmp_path, safety=safety)
    with home_of(settings) as database:
        batch_id = submit(settings, database, [{"prompt": "gore", **IDLE}, {"prompt": "kitten", **IDLE}])

        work_off(settings, database, batch_id)

        assert job_states(database, batch_id) == [JobState.BLOCKED, SUCCEEDED]
        assert [attempt.stage for attempt in runs_of(database, job_list(database, batch_id)[0].id)] == [Stage.SCREEN]
        assert_published_once(settings, database, batch_id)
        safe = sidecar_of(settings, database, job_list(database, batch_id)[1].id)
        assert (safe["safety"]["label"], safe["safety"]["decision"]) == ("safe", "allow")


def test_no_hidden_word_of_any_segment_is_generated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    safety = {"classifier": write_safety_classifier(tmp_path / "safety.bin")}
    settings = settings_for(tmp_path, safety=safety)
    lines = [
        {"segments": ["kitten", "go\u200bre"], **IDLE},
        {"prompt": "ｇｏｒｅ", **IDLE},
        {"prompt": "kitten", "negative_prompt": "gore", "guidance_scale": 0.5, **IDLE},
        {"segments": ["kitten", "kitten sleeps"], "negative_prompt": "gore", **IDLE},
    ]
    with home_of(settings) as database:
        batch_id = submit(settings, database, lines)

        work_off(settings, database, batch_id)

        assert job_states(database, batch_id) == [JobState.BLOCKED] * 3 + [SUCCEEDED]
        for job in job_list(database, batch_id)[:3]:
            assert [attempt.stage for attempt in runs_of(database, job.id)] == [Stage.SCREEN]
        blocked, *_, allowed = job_list(database, batch_id)
    for job, verdict in ((blocked, "block: unsafe with score 0.982"), (allowed, "allow: safe with score")):
        assert run(["--home", str(settings.home), "show", job.id]) == 0
        assert verdict in capsys.readouterr().out


def test_a_clip_that_was_not_screened_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_for(tmp_path)
    with home_of(settings) as database:
        batch_id = submit(settings, database, [{"prompt": "a fox", **IDLE}])
        work_off(settings, database, batch_id)
        (job,) = job_list(database, batch_id)

    assert run(["--home", str(settings.home), "show", job.id]) == 0
    assert "not screened: no classifier is configured" in capsys.readouterr().out


def test_held_jobs_wait_for_a_person_over_any_number_of_runs(tmp_path: Path) -> None:
    safety = {"classifier": write_safety_classifier(tmp_path / "safety.bin")}
    settings = settings_for(tmp_path, safety=safety)
    prompts = [{"prompt": "gore", **IDLE}, {"prompt": "gore gore", **IDLE}]
    with home_of(settings) as database:
        batch_id = submit(settings, database, prompts, BatchChoices(safety_policy="hold"))
        work_off(settings, database, batch_id)
        work_off(settings, database, batch_id)
        assert job_states(database, batch_id) == [JobState.HELD] * 2

        approved, rejected = job_list(database, batch_id)
        with database.transaction() as session:
            assert cancel_retry_approve.approve(session, approved.id, by="ann")
            assert cancel_retry_approve.reject(session, rejected.id, by="ann")
        work_off(settings, database, batch_id)

        assert job_states(database, batch_id) == [SUCCEEDED, JobState.BLOCKED]
        assert_published_once(settings, database, batch_id)


def test_a_running_and_a_waiting_job_are_cancelled_and_the_next_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_IDLE_STEP_S", "0.1")
    settings = settings_for(tmp_path)
    long = {"num_inference_steps": 1000}
    with home_of(settings) as database:
        batch_id = submit(
            settings,
            database,
            [{"prompt": "a", **IDLE, **long}, {"prompt": "b", **IDLE, **long}, {"prompt": "c", **IDLE}],
        )
        first, second, _ = job_list(database, batch_id)
        with solo(settings, database) as line:
            until(lambda: [attempt.stage for attempt in runs_of(database, second.id)] == [Stage.SCREEN])
            until(lambda: denoises(database, batch_id))
            cancel(database, first.id)
            cancel(database, second.id)
            until_settled(database, batch_id, line)

        assert job_states(database, batch_id) == [CANCELLED, CANCELLED, SUCCEEDED]
        assert [run.outcome for run in runs_of(database, first.id)] == [
            AttemptOutcome.SKIPPED,
            AttemptOutcome.CANCELLED,
        ]
        assert_published_once(settings, database, batch_id)
        assert left_in_handoff(settings) == []


def test_a_stopped_line_gives_its_work_back_and_the_next_one_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_IDLE_STEP_S", "0.1")
    settings = settings_for(tmp_path)
    with home_of(settings) as database:
        batch_id = submit(settings, database, [{"prompt": "a", **IDLE, "num_inference_steps": 1000}])
        (job,) = job_list(database, batch_id)
        with solo(settings, database):
            until(lambda: denoises(database, batch_id))
        assert states(database, batch_id)[JobState.WAITING] == 1
        assert left_in_handoff(settings) == []
        assert runs_of(database, job.id)[-1].outcome is AttemptOutcome.RELEASED

        monkeypatch.setenv("VGEN_IDLE_STEP_S", "0")
        work_off(settings, database, batch_id)

        assert job_states(database, batch_id) == [SUCCEEDED]
        assert_published_once(settings, database, batch_id)


def test_the_gpu_takes_the_next_clip_while_one_is_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a hand-over that takes long: the first frame of all is written slowly
    monkeypatch.setenv("VGEN_FAILPOINTS", f"frames_write=sleep:4!{tmp_path / 'slept'}")
    settings = settings_for(tmp_path)
    with home_of(settings) as database:
        batch_id = submit(settings, database, [{"prompt": f"clip {number}", **IDLE} for number in range(2)])
        ids = [job.id for job in job_list(database, batch_id)]

        with solo(settings, database) as line:
            until(lambda: len(generating(database, batch_id)) == 2)
            until_settled(database, batch_id, line)

        assert job_states(database, batch_id) == [SUCCEEDED] * 2
        assert_published_once(settings, database, batch_id)
        assert left_in_handoff(settings) == []
        first, second = sorted((runs_of(database, job_id)[1] for job_id in ids), key=lambda run: run.started_at)
    assert [run.attempt for run in (first, second)] == [1, 1]
    assert first.ended_at < second.started_at + 1000, "one GPU's time is counted twice"


def test_a_clip_that_is_made_is_recorded_although_the_line_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_FAILPOINTS", f"frames_write=sleep:1.5!{tmp_path / 'slept'}")
    settings = settings_for(tmp_path)
    with home_of(settings) as database:
        batch_id = submit(settings, database, [{"prompt": "a clip", **IDLE}])
        (job,) = job_list(database, batch_id)

        with solo(settings, database):
            until((tmp_path / "slept").exists)

        assert [(run.stage, run.outcome) for run in runs_of(database, job.id)[1:]] == [
            (Stage.GENERATE, AttemptOutcome.DONE)
        ]
        work_off(settings, database, batch_id)
        assert_published_once(settings, database, batch_id)


def test_ten_jobs_each_run_every_stage_once_also_where_the_generator_grows_too_large_among_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_FAILPOINTS", f"denoise_step=leak:96@3!{tmp_path / 'leaked'}")
    settings = load_settings(home=tmp_path / "home", worker={"growth_bytes": 64 * 1024 * 1024})
    with home_of(settings) as database:
        batch_id = submit(settings, database, [{"prompt": f"clip {number}", **IDLE} for number in range(10)])

        work_off(settings, database, batch_id)

        assert job_states(database, batch_id) == [SUCCEEDED] * 10
        assert_published_once(settings, database, batch_id)
        for job in job_list(database, batch_id):
            assert [attempt.stage for attempt in runs_of(database, job.id)] == STAGES
        with database.reading() as session:
            (recycled,) = session.scalars(select(Event).where(Event.kind == "generator_recycled"))
            loads = session.scalars(select(Event).where(Event.kind == "model_loaded")).all()
    assert "MiB more than after its warm-up; 64 MiB are allowed" in recycled.data["reason"]
    assert recycled.data["worker"] == loads[0].data["worker"]
    assert len(loads) == 2


@pytest.mark.parametrize(("gpus", "at_once"), [(1, 1), (2, 2)])
def test_clips_of_two_gpus_are_encoded_side_by_side(
    gpus: int, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an encoder that is slow to write, and as many clips as GPUs and one more
    monkeypatch.setenv("VGEN_FAILPOINTS", "encode_write=sleep:1")
    settings = settings_for(tmp_path, gpu_count=gpus)
    with home_of(settings) as database:
        batch_id = submit(settings, database, [{"prompt": str(n), **IDLE} for n in range(gpus + 1)])

        work_off(settings, database, batch_id)

        encoded = [
            run
            for job in job_list(database, batch_id)
            for run in runs_of(database, job.id)
            if run.stage is Stage.ENCODE
        ]
        assert len({run.worker for run in encoded}) == at_once
        began = [(run.started_at, run.ended_at) for run in encoded]
        most = max(sum(start <= moment < end for start, end in began) for moment, _ in began)
        assert most == at_once
