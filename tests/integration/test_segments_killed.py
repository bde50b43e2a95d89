"""A long clip whose generator is killed in every segment is the clip of an undisturbed run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.seeds import segment_seed
from pipeline.states import AttemptOutcome, JobState, Stage
from tests.line_helpers import (
    IDLE,
    assert_published_once,
    frames_by_job,
    home_of,
    job_list,
    job_states,
    left_in_handoff,
    runs_of,
    settings_for,
    sidecar_of,
    submit,
    work_off,
)

SEGMENTS = 10
SEED = 11
CLIP = {"prompt": "a river", "seed": SEED, "segments": SEGMENTS, **IDLE, "num_inference_steps": 5}


def test_ten_segments_with_a_kill_in_each_are_the_undisturbed_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a clip of ten segments, undisturbed
    quiet = settings_for(tmp_path / "quiet")
    with home_of(quiet) as database:
        batch_id = submit(quiet, database, [CLIP])
        work_off(quiet, database, batch_id)
        expected = frames_by_job(quiet, database, batch_id)

    # When the process that generates is killed (SIGKILL) once in every segment, at its third step
    plan = [
        f"denoise_step:{segment_seed(SEED, number)}=kill@3!{tmp_path}/killed-{number}" for number in range(SEGMENTS)
    ]
    monkeypatch.setenv("VGEN_FAILPOINTS", ";".join(plan))
    killed = settings_for(tmp_path / "killed")
    with home_of(killed) as database:
        batch_id = submit(killed, database, [CLIP])
        work_off(killed, database, batch_id)

        # Then each segment was tried twice, and the frames are the same, byte for byte
        assert job_states(database, batch_id) == [JobState.SUCCEEDED]
        assert_published_once(killed, database, batch_id)
        assert left_in_handoff(killed) == []
        (job,) = job_list(database, batch_id)
        tries = [run.outcome for run in runs_of(database, job.id) if run.stage is Stage.GENERATE]
        assert tries == [AttemptOutcome.RETRIED, AttemptOutcome.DONE] * SEGMENTS
        assert len(list(tmp_path.glob("killed-*"))) == SEGMENTS
        assert len(sidecar_of(killed, database, job.id)["segments"]) == SEGMENTS
        found = frames_by_job(killed, database, batch_id)
    assert [frames for frames, _ in found] == [frames for frames, _ in expected]
