"""Clips of several segments through the whole line of a solo run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import av
import numpy as np

from cli.options import BatchChoices
from pipeline.digests import joined_digest
from pipeline.seeds import segment_seed
from pipeline.states import AttemptOutcome, JobState, Stage
from tests.line_helpers import (
    IDLE,
    artifacts_of,
    assert_published_once,
    home_of,
    job_list,
    job_states,
    left_in_handoff,
    runs_of,
    settings_for,
    sidecar_of,
    stored_bytes,
    submit,
    work_off,
)

TINY = {"preset": "tiny-wan", "num_frames": 5, "width": 64, "height": 48, "num_inference_steps": 2}
LOSSLESS = BatchChoices(codec="libx264rgb", quality=0)


def decoded(video: bytes, path: Path) -> list[bytes]:
    """Each frame of a video as raw RGB."""
    path.write_bytes(video)
    with av.open(str(path)) as container:
        return [np.ascontiguousarray(frame.to_ndarray(format="rgb24")).tobytes() for frame in container.decode(video=0)]


def test_segments_become_one_video_with_every_frame_once(tmp_path: Path) -> None:
    # Given clips of several segments: a prompt each, and one prompt and a count
    settings = settings_for(tmp_path)
    lines: list[dict[str, Any]] = [
        {"segments": ["a boat", "it sinks", "a fish"], "seed": 7, **TINY},
        {"prompt": "a red kite", "seed": 8, "segments": 2, **IDLE},
    ]
    with home_of(settings) as database:
        batch_id = submit(settings, database, lines, LOSSLESS)

        work_off(settings, database, batch_id)

        # Then each is one published video, whose frames are the segments' one after the other
        assert job_states(database, batch_id) == [JobState.SUCCEEDED] * 2
        assert_published_once(settings, database, batch_id)
        assert left_in_handoff(settings) == []
        for job, counts in zip(job_list(database, batch_id), [(5, 4, 4), (5, 4)], strict=True):
            sidecar = sidecar_of(settings, database, job.id)
            made = sidecar["segments"]
            frames = decoded(stored_bytes(settings, artifacts_of(database, job.id)["video"]), tmp_path / "video.mp4")
            assert tuple(segment["num_frames"] for segment in made) == counts
            begin = 0
            for number, segment in enumerate(made):
                own = frames[begin : begin + segment["num_frames"]]
                assert hashlib.sha256(b"".join(own)).hexdigest() == segment["frames_sha256"]
                assert segment["seed"] == segment_seed(sidecar["seed"], number)
                begin += segment["num_frames"]
            assert begin == len(frames) == sidecar["frames"]["num_frames"]
            assert sidecar["frames"]["sha256"] == joined_digest([segment["frames_sha256"] for segment in made])
        first = sidecar_of(settings, database, job_list(database, batch_id)[0].id)
        assert [segment["prompt_used"] for segment in first["segments"]] == ["a boat", "it sinks", "a fish"]
        runs = runs_of(database, job_list(database, batch_id)[0].id)
        assert [run.outcome for run in runs if run.stage is not Stage.SCREEN] == [AttemptOutcome.DONE] * 7
