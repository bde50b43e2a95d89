"""Sessions on hosts that die: each goes on on another GPU, with the frames of an undisturbed run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from websockets.sync.client import ClientConnection, connect

from db import workers
from service import sessions
from service.sessions import SessionChoices
from service.views.sessions import SessionView, StreamSegmentView
from tests.faults import session_clients
from tests.faults.fault_cluster import World, until
from tests.faults.proxy import Mode, StoreFault
from tests.faults.session_check import keys_of

SESSIONS = 4
TINY = {"num_frames": 5, "width": 64, "height": 48, "num_inference_steps": 60}
LONG = 60
"""Steps of a segment that is to be hit while it denoises: 3 s."""


@pytest.fixture
def world(world: World) -> Iterator[World]:
    """Sessions that a test has left open would keep their GPUs from the next."""
    yield world
    for view in sessions.list_sessions(world.database):
        finish(world, view.id)


def opened(world: World, seed: int, preset: str = "idle", **more: Any) -> SessionView:
    """A session that has a GPU."""
    chosen = SessionChoices(**{"preset": preset, "num_inference_steps": LONG, "seed": seed, **more})
    view = sessions.open_session(world.database, world.settings, chosen)
    until(lambda: sessions.session_view(world.database, view.id).gpu_ready, "it has a GPU", 150.0)
    return sessions.session_view(world.database, view.id)


def generated(world: World, session_id: str, segment: int) -> bool:
    return sessions.session_view(world.database, session_id).segments[segment].generated


def finish(world: World, session_id: str) -> SessionView:
    """Close the session; its segments are joined, and the fixture compares their frames with an undisturbed run's."""
    sessions.close_session(world.database, session_id)
    until(lambda: sessions.session_view(world.database, session_id).settled, "it is settled", 100.0)
    return sessions.session_view(world.database, session_id)


@pytest.mark.slow_faults  # a worker is lost to its session a quarter of a minute after its last sign of life
def test_a_session_whose_host_is_killed_goes_on_on_another_one(world: World) -> None:
    # Given a session of which the second segment is being made
    session = opened(world, seed=41)
    for number in (0, 1):
        sessions.add_segment(world.database, world.settings, session.id, number, f"segment {number}")
    until(lambda: generated(world, session.id, 0), "the first is there")
    _, _, host = world.wait_denoising(session.batch_id)

    # When its host dies, and all that lay on it is gone
    host.kill()
    shutil.rmtree(host.home)

    # Then the other host's is reserved for it, and makes that segment and the next
    until(lambda: generated(world, session.id, 1), "another makes it", 100.0)
    ended = f"SELECT ended_at FROM reservations WHERE session_id = '{session.id}' ORDER BY id LIMIT 1"
    seen = f"SELECT seen_at FROM workers WHERE name = '{session.gpu}'"
    assert world.one(ended) - world.one(seen) < workers.ALIVE_MS  # leases are short here, and so is the patience
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


@pytest.mark.timeout(400)
@pytest.mark.slow_faults  # three loads of the model
def test_a_real_model_whose_generator_and_whose_worker_are_killed_makes_equal_frames(world: World) -> None:
    """The model is a pipeline of diffusers at tiny size; rows, messages and states go through real servers."""

    def made(*, killed: bool) -> list[StreamSegmentView]:
        session = opened(world, seed=53, preset="tiny-wan", **TINY)
        for number in range(3):
            sessions.add_segment(world.database, world.settings, session.id, number, f"segment {number}")
            if killed and number < 2:
                _, _, host = world.wait_denoising(session.batch_id)
                for pid in host.generators() if number == 0 else host.parents("gpu0"):
                    (os.kill if number == 0 else os.killpg)(pid, signal.SIGKILL)
            until(lambda n=number: generated(world, session.id, n), f"segment {number} is made", 150.0)  # type: ignore[misc]
        return finish(world, session.id).segments

    disturbed, undisturbed = made(killed=True), made(killed=False)
    assert [each.attempt for each in disturbed] == [2, 2, 1]
    assert [each.attempt for each in undisturbed] == [1, 1, 1]
    assert [each.frames_sha256 for each in disturbed] == [each.frames_sha256 for each in undisturbed]
    assert [each.numerics for each in disturbed] == [each.numerics for each in undisturbed]
    assert len({each.frames_sha256 for each in disturbed}) == 3


class Client:
    """Somebody who watches a session over a WebSocket."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.told: list[dict[str, Any]] = []

    def send(self, kind: str, **fields: Any) -> None:
        self._connection.send(json.dumps({"type": kind, **fields}))

    def ask(self, steps: int = LONG) -> None:
        self.send("segment_prompt_source", prompt="a boat", num_inference_steps=steps)

    def until(self, kind: str, patience_s: float = 100.0) -> dict[str, Any]:
        """The next message of a kind. Raises ConnectionClosed, TimeoutError."""
        give_up = time.monotonic() + patience_s
        while True:
            received = self._connection.recv(timeout=give_up - time.monotonic())
            if isinstance(received, str):
                self.told.append(json.loads(received))
                if self.told[-1]["type"] == kind:
                    return self.told[-1]

    @property
    def errors(self) -> list[dict[str, Any]]:
        return [each for each in self.told if each["type"] == "error"]


@contextlib.contextmanager
def watching(world: World, **fields: Any) -> Iterator[Client]:
    """A client of the world's server that has a GPU, or has it again."""
    world.serve(1, session_clients.CONFIG)
    address = world.servers[0].url.replace("http://", "ws://") + "/v1/stream"
    with connect(address, compression=None, max_size=None, proxy=None, close_timeout=1) as connection:
        client = Client(connection)
        client.send("session_init_v2", **fields)
        client.until("ltx2_stream_start")
        yield client


def id_of(client: Client) -> str:
    return str(next(each["session_id"] for each in client.told if each["type"] == "gpu_assigned"))


def test_a_session_whose_database_is_away_for_a_while_goes_on_and_its_client_hears_of_no_error(world: World) -> None:
    with watching(world) as client:
        client.ask()
        client.until("step_complete")

        world.database_proxy.set(Mode.REFUSE)
        world.database_proxy.cut()
        time.sleep(3)
        world.database_proxy.heal()

        assert client.until("ltx2_segment_complete")["segment_idx"] == 0
        client.ask(steps=2)
        assert client.until("ltx2_segment_complete")["segment_idx"] == 1
        client.send("stop_session")
        assert client.until("ltx2_stream_complete")["reason"] == "stop_requested"
    assert client.errors == []
    assert [each.state for each in finish(world, id_of(client)).segments] == ["succeeded"] * 2


def test_a_session_goes_on_when_redis_is_emptied_in_each_of_its_segments(world: World) -> None:
    with watching(world) as client:
        for number in range(session_clients.SEGMENTS):
            client.ask(steps=20)
            client.until("step_complete")
            world.redis_command("FLUSHALL")
            assert client.until("ltx2_segment_complete")["segment_idx"] == number
        client.until("ltx2_stream_complete")
    assert client.errors == []
    assert finish(world, id_of(client)).joined_job is not None


def test_a_session_of_a_server_that_is_killed_goes_on_with_another_where_its_client_was(world: World) -> None:
    with watching(world) as client:
        client.ask(steps=2)
        client.until("ltx2_segment_complete")
        client.ask()
        client.until("step_complete")
        world.servers[0].kill_and_start()

    until(lambda: world.servers[0].url, "another serves")
    session_id = id_of(client)
    with watching(world, session_id=session_id, after_segment=0) as again:
        assert again.until("ltx2_segment_start")["segment_idx"] == 1
        again.until("ltx2_segment_complete")
        again.send("stop_session")
        again.until("ltx2_stream_complete")
    assert [each.attempt for each in finish(world, session_id).segments] == [1, 1]


def test_sessions_that_are_over_leave_no_keys_in_redis(world: World) -> None:
    ids = []
    for _ in range(SESSIONS):
        with watching(world) as client:
            ids.append(id_of(client))
            client.ask(steps=2)
            client.until("ltx2_segment_complete")
            client.send("stop_session")
            client.until("ltx2_stream_complete")
    for session_id in ids:
        finish(world, session_id)
    assert keys_of(world.redis.port, ids) == []

    # When a message of one comes late, or twice, the queue that it makes goes too
    queue = world.one(f"SELECT queue FROM reservations WHERE session_id = '{ids[0]}'")
    with redis.Redis(port=world.redis.port) as client:
        client.lpush(queue, "late")
        until(lambda: not client.exists(queue), "the queue that nobody reads is removed")


def test_a_client_that_comes_back_while_the_store_is_away_waits_for_its_segment(world: World) -> None:
    with watching(world) as client:
        client.ask(steps=2)
        client.until("ltx2_segment_complete")
    session_id = id_of(client)
    until(lambda: sessions.session_view(world.database, session_id).segments[0].video_key, "its clip is published")

    # When neither the relay nor a hand-off folder has the segment, and the store fails
    world.redis_command("FLUSHALL")
    world.store_proxy.met.clear()
    world.store_proxy.fail(StoreFault.ERROR_503, method="GET", times=20)
    with watching(world, session_id=session_id) as again:
        again.until("ltx2_segment_complete")
        again.send("stop_session")
        again.until("ltx2_stream_complete")
    assert again.errors == []
    assert StoreFault.ERROR_503 in world.store_proxy.met
    finish(world, session_id)
