"""Sessions on hosts that die: each goes on on another GPU, with the frames of an undisturbed run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from service import sessions
from service.sessions import SessionChoices
from service.views.sessions import SessionView
from tests.faults.fault_cluster import World, until

LONG = 60
"""Steps of a segment that is to be hit while it denoises: 3 s."""


@pytest.fixture
def world(world: World) -> Iterator[World]:
    """Sessions that a test has left open would keep their GPUs from the next."""
    yield world
    for view in sessions.list_sessions(world.database):
        finish(world, view.id)


def opened(world: World, seed: int) -> SessionView:
    """A session that has a GPU."""
    chosen = SessionChoices(preset="idle", num_inference_steps=LONG, seed=seed)
    view = sessions.open_session(world.database, world.settings, chosen)
    until(lambda: sessions.session_view(world.database, view.id).gpu_ready, "it has a GPU")
    return sessions.session_view(world.database, view.id)


def generated(world: World, session_id: str, segment: int) -> bool:
    return sessions.session_view(world.database, session_id).segments[segment].generated


def finish(world: World, session_id: str) -> SessionView:
    """Close the session; its segments are joined, and the fixture compares their frames with an undisturbed run's."""
    sessions.close_session(world.database, session_id)
    until(lambda: sessions.session_view(world.database, session_id).settled, "it is settled", 100.0)
    return sessions.session_view(world.database, session_id)


@pytest.mark.slow_faults  # a worker counts as gone half a minute after its last sign of life
def test_a_session_whose_host_is_killed_goes_on_on_another_one(world: World) -> None:
    # Given a session of which the second segment is being made
    session = opened(world, seed=41)
    for number in (0, 1):
        sessions.add_segment(world.database, world.settings, session.id, number, f"segment {number}")
    until(lambda: generated(world, session.id, 0), "the first is there")
    _, _, host = world.wait_denoising(session.batch_id)

    # When its host dies
    host.kill()

    # Then the other host's is reserved for it, and makes that segment and the next
    until(lambda: generated(world, session.id, 1), "another makes it", 100.0)
    sessions.add_segment(world.database, world.settings, session.id, 2, "the end")
    until(lambda: generated(world, session.id, 2), "the third is there")
    shown = sessions.session_view(world.database, session.id)
    assert shown.state == "active"
    assert shown.gpu not in (None, session.gpu)
    assert shown.segments[1].attempt == 2  # and the first one's frames, too, if nobody had encoded them yet
    assert finish(world, session.id).joined_job is not None


def test_a_session_whose_worker_is_killed_keeps_its_gpu_which_another_process_takes_over(world: World) -> None:
    session = opened(world, seed=47)
    sessions.add_segment(world.database, world.settings, session.id, 0, "a boat")
    _, _, host = world.wait_denoising(session.batch_id)

    for pid in host.parents("gpu0"):
        os.killpg(pid, signal.SIGKILL)

    until(lambda: generated(world, session.id, 0), "it is made again", 100.0)
    shown = finish(world, session.id)
    assert [each.attempt for each in shown.segments] == [2]
    assert world.one(f"SELECT count(*) FROM reservations WHERE session_id = '{session.id}'") == 1


def test_a_session_whose_generator_is_killed_in_each_segment_keeps_its_gpu_and_its_frames(world: World) -> None:
    session = opened(world, seed=43)
    for number in (0, 1):
        sessions.add_segment(world.database, world.settings, session.id, number, f"segment {number}")
        _, _, host = world.wait_denoising(session.batch_id)
        for pid in host.generators():
            os.kill(pid, signal.SIGKILL)
        until(lambda n=number: generated(world, session.id, n), "it is made again")  # type: ignore[misc]

    shown = finish(world, session.id)
    assert [each.attempt for each in shown.segments] == [2, 2]
    bound = world.one(f"SELECT count(*) FROM reservations WHERE session_id = '{session.id}'")
    assert bound == 1
