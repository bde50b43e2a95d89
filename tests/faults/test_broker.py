"""A broker that forgets, breaks, lies or hangs: messages carry nothing that is not in a row."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from celery import Celery
from kombu import Connection

from pipeline.policy.routes import CPU_QUEUE, IO_QUEUE, preset_queue
from tests.faults.fault_cluster import World, until
from tests.faults.proxy import Mode

IO, CPU, GPU = IO_QUEUE, CPU_QUEUE, preset_queue("cpu", "idle")


@contextmanager
def client(world: World) -> Iterator[redis.Redis]:
    with redis.Redis(host="127.0.0.1", port=world.redis.port, socket_timeout=5) as connection:
        yield connection


def test_a_broker_that_is_away_when_clips_are_finished_has_none_made_twice(world: World) -> None:
    # Given clips that are being generated when the broker goes
    batch_id = world.clips(4, steps=20)
    world.wait_denoising(batch_id)
    world.redis.stop()
    running = f"SELECT count(*) FROM steps WHERE batch_id = '{batch_id}' AND stage = 'generate' AND state = 'running'"
    until(lambda: not world.one(running), "what was running is recorded")
    time.sleep(1)

    # When it comes back empty
    world.redis.start()

    # Then the rest is done, and what was generated is kept
    world.wait_done(batch_id)
    assert world.generations(batch_id) == 4


@pytest.mark.slow_faults
def test_cut_connections_deliver_twice_and_nothing_is_done_twice(world: World) -> None:
    batch_id = world.clips(4, steps=30)
    world.wait_denoising(batch_id)

    for _ in range(3):
        world.broker_proxy.cut()
        time.sleep(0.7)

    world.wait_done(batch_id)
    assert world.generations(batch_id) == 4


@pytest.mark.slow_faults
def test_a_broker_that_answers_nothing_is_waited_for(world: World) -> None:
    batch_id = world.clips(4, steps=20)
    world.wait_denoising(batch_id)

    world.broker_proxy.set(Mode.SWALLOW)
    time.sleep(20)
    world.broker_proxy.heal()

    world.wait_done(batch_id)


def test_a_running_task_that_is_delivered_again_is_refused(world: World) -> None:
    # Given clips in the middle, and a worker somewhere whose visibility timeout is far too short
    batch_id = world.clips(2, steps=60)
    world.wait_denoising(batch_id)

    with Connection(world.redis.url, transport_options={"visibility_timeout": 0}) as connection:
        time.sleep(1.1)
        for _ in range(30):
            connection.default_channel.qos.restore_visible(num=100, interval=1)
            time.sleep(0.05)

    world.wait_done(batch_id)
    assert world.generations(batch_id) == 2


def _waiting(world: World, queue: str) -> int:
    with client(world) as connection:
        return int(connection.llen(queue))


def test_lost_doubled_and_shuffled_messages_change_nothing(world: World) -> None:
    batch_id = world.clips(12, steps=16)
    world.wait_denoising(batch_id)
    dice = random.Random(5)

    with client(world) as connection:
        for _ in range(20):
            for queue in (IO, CPU, GPU):
                _disturb(connection, queue, dice)
            time.sleep(0.1)

    world.wait_done(batch_id)
    assert world.generations(batch_id) == 12


def _disturb(connection: redis.Redis, queue: str, dice: random.Random) -> None:
    """Take all messages of the queue; put them back in another order, one of them twice, another not at all."""
    messages = []
    while (message := connection.rpop(queue)) is not None:
        messages.append(message)
    dice.shuffle(messages)
    if len(messages) > 1 and dice.random() < 0.5:
        messages.pop()  # as when a worker dies between taking a message and noting that it did
    for message in messages + messages[:1]:
        connection.lpush(queue, message)


def test_messages_that_mean_nothing_are_refused_and_no_worker_dies(world: World) -> None:
    pids = sorted(pid for host in world.hosts.values() for pid in host.parents())
    strangers = Celery("strangers", broker=world.redis.url, set_as_current=False)
    strangers.conf.accept_content = ["json", "pickle"]
    for queue in (IO, CPU, GPU):
        for task, arguments in [
            ("vgen.stage99", ("x", 0)),
            ("somebody.elses", ()),
            ("vgen.generate", ("no-such-job", 0)),
            ("vgen.generate", ()),
            ("vgen.encode", ({"a": 1}, "zero")),
            ("vgen.publish", (None, None, None)),
            ("vgen.screen", ("x" * 100_000, -1)),
            ("vgen.enhance", ("nul\0", 0)),
        ]:
            strangers.send_task(task, arguments, queue=queue)
        strangers.send_task("vgen.generate", ("pickled", 0), queue=queue, serializer="pickle")
    strangers.close()

    batch_id = world.clips(2)

    world.wait_done(batch_id)
    until(lambda: _waiting(world, IO) == _waiting(world, CPU) == _waiting(world, GPU) == 0, "the queues are empty")
    assert sorted(pid for host in world.hosts.values() for pid in host.parents()) == pids


@pytest.mark.slow_faults  # kombu lets some of it end a worker, which is started again
def test_what_is_no_message_at_all_costs_no_job(world: World) -> None:
    with client(world) as connection:
        for queue in (IO, CPU, GPU):
            connection.lpush(queue, "not json")
            connection.lpush(queue, json.dumps({"body": "eA==", "headers": {}, "properties": {}}))
            connection.lpush(queue, json.dumps([1, 2, 3]))

    batch_id = world.clips(2)

    world.wait_done(batch_id)


@pytest.mark.slow_faults
def test_a_task_that_is_revoked_behind_our_back_is_done_all_the_same(world: World) -> None:
    # Given a task that somebody ends with Celery's own means, as Flower's button does
    batch_id = world.clips(1, steps=100)
    job, _, _ = world.wait_denoising(batch_id)
    stranger = Celery("stranger", broker=world.redis.url, set_as_current=False)
    with client(world) as connection:
        (held,) = [json.loads(entry) for entry in connection.hvals("unacked") if job.encode() in entry]

    stranger.control.revoke(held[0]["headers"]["id"], terminate=True, signal="SIGKILL")
    stranger.close()

    world.wait_done(batch_id)


@pytest.mark.slow_faults
def test_a_full_broker_is_waited_for(world: World) -> None:
    with client(world) as connection:
        connection.config_set("maxmemory", "1mb")
        try:
            batch_id = world.clips(3)
            time.sleep(3)
            assert not world.ended(batch_id)
        finally:
            connection.config_set("maxmemory", "0")

    world.wait_done(batch_id)
