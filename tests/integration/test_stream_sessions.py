"""A session through the whole line of a solo run: its segments, one after the other, and the clip that joins them."""

from __future__ import annotations

import hashlib
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from db import invariants
from db.session import Database
from pipeline.digests import joined_digest
from pipeline.errors import GpuUnavailableError
from pipeline.settings import Settings, load_settings
from pipeline.states import AttemptOutcome, JobState
from service import sessions
from service.sessions import SessionChoices
from service.views.sessions import SessionView, StreamSegmentView
from tests.integration.test_segments import TINY, decoded
from tests.line_helpers import (
    IDLE,
    artifacts_of,
    assert_published_once,
    denoises,
    home_of,
    job_list,
    job_states,
    left_in_handoff,
    runs_of,
    settings_for,
    sidecar_of,
    solo,
    stored_bytes,
    submit,
    until,
    until_settled,
)
from tests.serving import serving

PROMPTS = ("a boat", "it sinks", "a fish")


def open_when_possible(database: Database, settings: Settings, choices: SessionChoices) -> SessionView:
    """Open a session once a worker has reported itself."""
    for _ in range(600):
        try:
            return sessions.open_session(database, settings, choices, owner="ada")
        except GpuUnavailableError:
            time.sleep(0.1)
    raise AssertionError("no worker came")


def test_a_sessions_segments_become_one_clip_as_if_it_had_been_asked_for_at_once(tmp_path: Path) -> None:
    # Given a session on a line at work, of which each segment is asked for when the one before is generated
    settings = settings_for(tmp_path, encode={"codec": "libx264rgb", "quality": 0})
    with home_of(settings) as database:
        with solo(settings, database) as line:
            opened = open_when_possible(database, settings, SessionChoices(seed=7, **TINY))
            for number, prompt in enumerate(PROMPTS):
                sessions.add_segment(database, settings, opened.id, number, prompt)
                until(lambda n=number: sessions.session_view(database, opened.id).segments[n].generated)  # type: ignore[misc]
            sessions.close_session(database, opened.id)
            until(lambda: sessions.session_view(database, opened.id).settled)
            until_settled(database, opened.batch_id, line)

            # When it is closed, then its clip is there
            shown = sessions.session_view(database, opened.id)
            assert [segment.state for segment in shown.segments] == ["succeeded"] * 3
            assert shown.joined_job is not None

            # And a clip of three segments with the same seed has the same frames
            lines = [{"segments": list(PROMPTS), "seed": 7, **TINY}]
            other = submit(settings, database, lines)
            until_settled(database, other, line)
        assert job_states(database, opened.batch_id) == [JobState.SUCCEEDED] * 4
        assert_published_once(settings, database, opened.batch_id)
        sidecar = sidecar_of(settings, database, shown.joined_job)
        digests = [segment.frames_sha256 or "" for segment in shown.segments]
        assert sidecar["frames"]["sha256"] == joined_digest(digests)
        (at_once,) = job_list(database, other)
        assert sidecar_of(settings, database, at_once.id)["frames"]["sha256"] == sidecar["frames"]["sha256"]

        # Each frame of the joined video is the segment's own
        video = stored_bytes(settings, artifacts_of(database, shown.joined_job)["video"])
        frames = decoded(video, tmp_path / "joined.mp4")
        begin = 0
        for part, digest, count in zip(sidecar["segments"], digests, (5, 4, 4), strict=True):
            own = frames[begin : begin + count]
            assert hashlib.sha256(b"".join(own)).hexdigest() == digest == part["frames_sha256"]
            begin += count
        assert begin == len(frames)
        assert [part["prompt_used"] for part in sidecar["segments"]] == list(PROMPTS)
        assert [part["job_id"] for part in sidecar["segments"]] == [segment.job_id for segment in shown.segments]
        assert left_in_handoff(settings) == []
        assert invariants.violations(database) == []


def test_a_clip_that_makes_room_for_a_session_goes_on_where_it_was(tmp_path: Path) -> None:
    # Given the one GPU in the middle of a clip of many steps
    settings = settings_for(tmp_path)
    slow = {**TINY, "prompt": "a slow river", "seed": 3, "num_inference_steps": 400}
    with home_of(settings) as database, solo(settings, database) as line:
        batch_id = submit(settings, database, [slow])
        until(lambda: denoises(database, batch_id))

        # When a session gets it, and makes a segment
        opened = open_when_possible(database, settings, SessionChoices(seed=7, **TINY))
        until(lambda: sessions.session_view(database, opened.id).gpu_ready)
        (job,) = job_list(database, batch_id)
        assert [run.outcome for run in runs_of(database, job.id)][-1] is AttemptOutcome.RELEASED
        sessions.add_segment(database, settings, opened.id, 0, "a boat")
        until(lambda: sessions.session_view(database, opened.id).segments[0].generated)
        assert job_states(database, batch_id) == [JobState.WAITING]
        sessions.close_session(database, opened.id)

        # Then the clip goes on from its checkpoint, and has the frames of one that nobody disturbed
        until_settled(database, batch_id, line)
        again = submit(settings, database, [{**slow, "custom_id": "again"}])
        until_settled(database, again, line)
        first, second = (sidecar_of(settings, database, job_list(database, each)[0].id) for each in (batch_id, again))
        assert first["denoising"]["resumed_from_step"] > 0
        assert second["denoising"]["resumed_from_step"] is None
        assert first["frames"]["sha256"] == second["frames"]["sha256"]


def test_a_session_outlives_the_server_that_is_killed_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a server that works off a session's second segment
    monkeypatch.setenv("VGEN_IDLE_STEP_S", "0.1")
    settings = load_settings(home=tmp_path / "home")
    steps: dict[str, Any] = {**IDLE, "num_inference_steps": 30}
    with home_of(settings) as database:

        def segment(number: int) -> StreamSegmentView:
            return sessions.session_view(database, opened.id).segments[number]

        with serving(settings.home) as served:
            opened = open_when_possible(database, settings, SessionChoices(seed=7, **steps))
            for number, prompt in enumerate(PROMPTS[:2]):
                sessions.add_segment(database, settings, opened.id, number, prompt)
            until(lambda: segment(0).generated and segment(1).step > 1)

            # When it is killed
            served.process.send_signal(signal.SIGKILL)
            served.process.wait(30)
        assert not segment(1).generated

        # Then the next server makes that segment on a GPU that it reserves anew, and the session goes on
        with serving(settings.home):
            until(lambda: segment(1).generated)
            sessions.add_segment(database, settings, opened.id, 2, PROMPTS[2])
            until(lambda: segment(2).generated)
            sessions.close_session(database, opened.id)
            until(lambda: sessions.session_view(database, opened.id).settled)
            until_settled(database, opened.batch_id)
            at_once = submit(settings, database, [{"segments": list(PROMPTS), "seed": 7, **steps}])
            until_settled(database, at_once)

        # And its frames are those of a clip that nobody disturbed, published once
        shown = sessions.session_view(database, opened.id)
        assert [each.attempt for each in shown.segments] == [1, 2, 1]
        assert_published_once(settings, database, opened.batch_id)
        joined = sidecar_of(settings, database, shown.joined_job or "")
        undisturbed = sidecar_of(settings, database, job_list(database, at_once)[0].id)
        assert joined["frames"]["sha256"] == undisturbed["frames"]["sha256"]
