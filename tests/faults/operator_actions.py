"""What people do while a storm blows: they stop, resume, limit and submit, at any moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from random import Random

from db.clips import cancel_retry_approve
from db.queue import pauses
from db.scheduling import budgets
from pipeline.policy.routes import CPU_QUEUE, IO_QUEUE
from service import sessions
from tests.faults.fault_cluster import World

Mend = Callable[[], object]


def _jobs_in(world: World, states: str) -> list[str]:
    return sorted(row[0] for row in world.rows(f"SELECT id FROM jobs WHERE state IN ({states})"))


def cancel_some(world: World, dice: Random) -> None:
    found = _jobs_in(world, "'waiting', 'in_flight'")
    for job_id in dice.sample(found, min(2, len(found))):
        with world.database.transaction() as session:
            cancel_retry_approve.cancel(session, job_id)


def retry_some(world: World, dice: Random) -> None:
    found = _jobs_in(world, "'failed', 'cancelled'")
    for job_id in dice.sample(found, min(3, len(found))):
        with world.database.transaction() as session:
            cancel_retry_approve.retry(session, job_id)


def pause(world: World, dice: Random) -> Mend | None:
    found = [row[0] for row in world.rows("SELECT id FROM batches WHERE active ORDER BY id")]
    if not found:
        return None
    batch_id = dice.choice(found)
    world.execute(f"UPDATE batches SET paused = true WHERE id = '{batch_id}'")
    return lambda: world.execute(f"UPDATE batches SET paused = false WHERE id = '{batch_id}'")


def pause_queue(world: World, dice: Random) -> Mend:
    """A kind of work, or everything, is held for some seconds."""
    queue = dice.choice(["*", "vgen.gpu", IO_QUEUE, CPU_QUEUE])
    with world.database.transaction() as session:
        pauses.pause_queue(session, queue, by="storm")

    def mend() -> None:
        world.execute(f"UPDATE queues SET paused = false WHERE name = '{queue}'")

    return mend


def budget(world: World, dice: Random) -> Mend | None:
    """A batch at work is given a budget that it has used up, or soon has; later it has none."""
    found = [row[0] for row in world.rows("SELECT id FROM batches WHERE active ORDER BY id")]
    if not found:
        return None
    batch_id = dice.choice(found)
    with world.database.transaction() as session:
        budgets.set_limits(session, batch_id, max_gpu_ms=dice.randrange(1, 5_000), max_cost=None, prices={}, by="storm")

    def mend() -> None:
        world.execute(f"UPDATE batches SET max_gpu_ms = NULL, over_budget = false WHERE id = '{batch_id}'")

    return mend


def close_session(world: World, dice: Random) -> None:
    """A session is ended by a person, now and then with what is not made yet."""
    open_ = sorted(view.id for view in sessions.list_sessions(world.database))
    if open_:
        cancel = dice.random() < 0.5
        sessions.close_session(world.database, dice.choice(open_), reason="closed_by_operator", cancel_open=cancel)


def same_key_eight_times(world: World, dice: Random) -> None:
    key = f"storm-{dice.randrange(10**9)}"
    lines = [{"prompt": f"same {number}"} for number in range(2)]
    threads = [threading.Thread(target=world.submit_under, args=(key, lines)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = world.one(f"SELECT count(*) FROM batches WHERE idempotency_key LIKE '%{key}%'")
    assert found == 1, f"{found} batches under one key"
