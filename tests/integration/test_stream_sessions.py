"""A session through the whole line of a solo run: its segments, one after the other, and the clip that joins them."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from db import invariants
from db.session import Database
from pipeline.digests import joined_digest
from pipeline.errors import GpuUnavailableError
from pipeline.settings import Settings
from pipeline.states import JobState
from service import sessions
from service.sessions import SessionChoices
from service.views.sessions import SessionView
from tests.integration.test_segments import TINY, decoded
from tests.line_helpers import (
    artifacts_of,
    assert_published_once,
    home_of,
    job_list,
    job_states,
    left_in_handoff,
    settings_for,
    sidecar_of,
    solo,
    stored_bytes,
    submit,
    until,
    until_settled,
)

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
