"""Presets of a user's own through the whole line: a checkpoint in a folder becomes a published clip, or is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.models.tiny_wan import ensure_tiny_wan
from pipeline.presets import load_library
from pipeline.states import JobState
from tests.line_helpers import (
    IDLE,
    assert_published_once,
    home_of,
    job_list,
    job_states,
    settings_for,
    sidecar_of,
    submit,
    work_off,
)

# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is about to drop; not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
TINY = {"num_frames": 5, "width": 64, "height": 48, "num_inference_steps": 2}


def test_a_checkpoint_in_a_folder_becomes_a_clip_that_says_what_made_it(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    shutil.copytree(ensure_tiny_wan(settings.effective_cache_dir), tmp_path / "step-9")
    folder = settings.effective_presets_dir
    folder.mkdir(parents=True)
    (folder / "nightly.toml").write_text(f'extends = "tiny-wan"\nmodel = "{tmp_path}/step-9"\n', "utf-8")
    with home_of(settings) as database:
        batch_id = submit(
            settings, database, [{"prompt": "a", "seed": 3, "preset": name, **TINY} for name in ("tiny-wan", "nightly")]
        )
        work_off(settings, database, batch_id)

        assert job_states(database, batch_id) == [JobState.SUCCEEDED] * 2
        assert_published_once(settings, database, batch_id)
        plain, nightly = [sidecar_of(settings, database, job.id) for job in job_list(database, batch_id)]
    assert nightly["frames"]["sha256"] == plain["frames"]["sha256"]
    preset = load_library(folder).get("nightly")
    assert nightly["preset"]["digest"] == preset.digest == nightly["request"]["preset_digest"]
    assert nightly["preset"]["values"]["repo"] == f"{tmp_path}/step-9"
    assert nightly["model"]["revision"].startswith("files-")
    assert nightly["model"]["random_weights"] is True


def test_jobs_whose_preset_is_gone_or_changed_are_refused_and_hold_up_nobody(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    folder = settings.effective_presets_dir
    folder.mkdir(parents=True)
    for name in ("gone", "changed"):
        (folder / f"{name}.toml").write_text('extends = "idle"\n', "utf-8")
    with home_of(settings) as database:
        lines = [{"prompt": "a", "preset": "gone"}, {"prompt": "b", "preset": "changed"}, {"prompt": "c", **IDLE}]
        batch_id = submit(settings, database, lines)
        (folder / "gone.toml").unlink()
        (folder / "changed.toml").write_text('extends = "idle"\nversion = 2\n', "utf-8")
        work_off(settings, database, batch_id)

        gone, changed, _ = job_list(database, batch_id)
        assert job_states(database, batch_id) == [JobState.FAILED, JobState.FAILED, JobState.SUCCEEDED]
    assert (gone.error_code, changed.error_code) == ("preset_missing", "preset_differs")
    assert f"looked in {folder}" in str(gone.error)
    assert str(folder / "changed.toml") in str(changed.error)
