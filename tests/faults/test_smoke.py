"""The three things that carry the line, each seen at work: `make mutants` takes them away."""

from __future__ import annotations

import os
import signal

import redis

from tests.faults.fault_cluster import World, until


def test_a_clip_that_takes_longer_than_a_lease_is_made_once(world: World) -> None:
    # Given a lease of 3 s and a clip of 6 s
    batch_id = world.clips(1, steps=120)

    world.wait_ended(batch_id)

    runs = world.rows(f"""SELECT r.outcome FROM stage_runs r JOIN jobs j ON j.id = r.job_id
        WHERE j.batch_id = '{batch_id}' AND r.stage = 'generate'""")
    assert runs == [("done",)]


def test_a_message_stays_in_the_broker_until_its_task_has_ended(world: World) -> None:
    with redis.Redis(port=world.redis.port, socket_timeout=5) as client:

        def unacknowledged() -> set[bytes]:
            return set(client.hkeys("unacked"))

        dead = unacknowledged()  # of workers that earlier tests killed
        batch_id = world.clips(1, steps=60)
        world.wait_denoising(batch_id)
        held = unacknowledged() - dead
        world.wait_ended(batch_id)
        until(lambda: not unacknowledged() - dead, "every message is acknowledged")

    assert len(held) == 1


def test_the_step_of_a_killed_worker_is_done_by_another(world: World) -> None:
    batch_id = world.clips(1, steps=60)
    job, attempt, host = world.wait_denoising(batch_id)

    for pid in host.parents("gpu0"):
        os.killpg(pid, signal.SIGKILL)

    world.wait_ended(batch_id)
    ended = f"SELECT outcome FROM stage_runs WHERE job_id = '{job}' AND stage = 'generate' AND attempt = {attempt}"
    assert world.one(ended) == "lease_ended"
