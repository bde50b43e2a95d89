"""A database that restarts, is cut off or read-only: work goes on, and is recorded once."""

from __future__ import annotations

import signal
import time

import pytest

from tests.faults.fault_cluster import World
from tests.faults.proxy import Mode


def test_a_database_away_for_longer_than_a_lease_has_no_clip_made_twice(world: World) -> None:
    batch_id = world.clips(2, steps=120)
    world.wait_denoising(batch_id)

    world.database_proxy.set(Mode.REFUSE)
    world.database_proxy.cut()
    time.sleep(5)
    world.database_proxy.heal()

    world.wait_done(batch_id)
    assert world.generations(batch_id) == 2


def test_a_read_only_database_is_waited_for_like_one_that_is_away(world: World) -> None:
    batch_id = world.clips(2, steps=120)
    world.wait_denoising(batch_id)

    world.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    world.execute("SELECT pg_reload_conf()")
    try:
        time.sleep(5)
    finally:
        world.execute("ALTER SYSTEM RESET default_transaction_read_only")
        world.execute("SELECT pg_reload_conf()")

    world.wait_done(batch_id)
    assert world.generations(batch_id) == 2


def test_a_database_that_is_killed_again_and_again_loses_nothing(world: World) -> None:
    batch_id = world.clips(8, steps=8)
    for _ in range(3):
        time.sleep(1)
        world.postgres._end(signal.SIGQUIT)  # immediate shutdown: recovers from its log
        world.postgres.start()

    world.wait_done(batch_id)


@pytest.mark.slow_faults
def test_connections_cut_in_the_middle_of_transactions_lose_nothing(world: World) -> None:
    batch_id = world.clips(12, steps=4)
    for _ in range(15):
        world.database_proxy.cut()
        time.sleep(0.2)

    world.wait_done(batch_id)


@pytest.mark.slow_faults
def test_a_database_that_answers_nothing_is_waited_for(world: World) -> None:
    batch_id = world.clips(4, steps=20)
    world.wait_denoising(batch_id)

    world.database_proxy.set(Mode.SWALLOW)
    time.sleep(20)
    world.database_proxy.heal()

    world.wait_done(batch_id)


def test_a_dispatcher_that_dies_between_commit_and_publish_loses_no_step(world: World) -> None:
    for host in world.hosts.values():
        host.fail(f"dispatch_committed=exit!{world.folder / 'committed'};dispatch_sent=exit!{world.folder / 'sent'}")

    batch_id = world.clips(6)

    world.wait_done(batch_id)
    assert (world.folder / "committed").exists()
    assert (world.folder / "sent").exists()


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("screen", marks=pytest.mark.slow_faults),
        "generate",
        pytest.param("encode", marks=pytest.mark.slow_faults),
        "publish",
    ],
)
def test_a_worker_that_dies_at_any_boundary_of_a_stage_loses_nothing(world: World, stage: str) -> None:
    points = ("after_claim", "before_work", "after_work", "after_finish")
    marks = [world.folder / f"{point}-{stage}" for point in points]
    for host in world.hosts.values():
        plan = [f"{point}:{stage}=kill!{mark}" for point, mark in zip(points, marks, strict=True)]
        host.fail(";".join(plan))

    batch_id = world.clips(6)

    world.wait_ended(batch_id)
    assert [mark.exists() for mark in marks] == [True] * 4
    assert {row[0] for row in world.rows(f"SELECT state FROM jobs WHERE batch_id = '{batch_id}'")} == {"succeeded"}
