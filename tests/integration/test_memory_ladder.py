"""Running out of memory in the real generator's child: torch's own error, raised at a failpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from db.models import Event
from db.session import Database
from pipeline.settings import Settings
from pipeline.states import JobState
from tests.line_helpers import home_of, job_list, job_states, settings_for, solo, submit, until_settled

CLIP = {"prompt": "a fox", "preset": "tiny-wan", "width": 32, "height": 32, "num_frames": 5, "num_inference_steps": 2}


def events(database: Database, job_id: str, kind: str) -> list[dict[str, Any]]:
    with database.reading() as session:
        return [row.data for row in session.scalars(select(Event).where(Event.job_id == job_id, Event.kind == kind))]


def sidecars(settings: Settings) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in Path(settings.effective_storage).glob("media/*/*.json")]
    return {sidecar["job_id"]: sidecar for sidecar in found}


def test_a_clip_that_never_fits_untiled_is_made_in_tiles_and_its_like_begin_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_FAILPOINTS", "gpu_memory:decode=raise:torch.OutOfMemoryError")
    quick = settings_for(tmp_path)
    # Denoising so short is else not worth a checkpoint.
    worker = quick.worker.model_copy(update={"checkpoint_s": 0.001})
    settings = quick.model_copy(update={"worker": worker})
    with home_of(settings) as database:
        with solo(settings, database) as line:
            first = submit(settings, database, [{**CLIP, "seed": 1}, {**CLIP, "seed": 2}])
            until_settled(database, first, line)
            asks = {**CLIP, "seed": 1, "acceleration": "vae_tiling"}
            second = submit(settings, database, [{**CLIP, "seed": 1}, asks])
            until_settled(database, second, line)

        assert job_states(database, first) + job_states(database, second) == [JobState.SUCCEEDED] * 4
        one, two = (job.id for job in job_list(database, first))
        like, asked = (job.id for job in job_list(database, second))
        for job_id in (one, two):
            climbed = events(database, job_id, "memory_rung")
            assert [(event["rung"], event["restarts_from_seed"]) for event in climbed] == [
                ("again", False),
                ("tiled", True),
            ]
            assert climbed[0]["reason"] == "WanPipeline: failpoint gpu_memory"
            # What was saved untiled is not used for the tiled clip, and that is said.
            (unusable,) = events(database, job_id, "checkpoint_unusable")
            assert "tiling was False and is True" in unusable["reason"]
        (learned,) = events(database, like, "memory_rung")
        assert (learned["rung"], "restarts_from_seed" in learned) == ("tiled", False)
        assert events(database, asked, "memory_rung") == []

        made = sidecars(settings)
        rungs = {job_id: sidecar["memory_rung"] for job_id, sidecar in made.items()}
        assert rungs == {one: "tiled", two: "tiled", like: "tiled", asked: "plain"}
        assert {sidecar["numerics"]["tiling"] for sidecar in made.values()} == {True}
        assert made[one]["request"]["acceleration"]["vae_tiling"] is False
        assert len({made[job_id]["frames"]["sha256"] for job_id in (one, like, asked)}) == 1, "one fingerprint"
