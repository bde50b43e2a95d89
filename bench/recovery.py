"""How long after a fault a job is claimed again, under the default settings: ``python -m bench.recovery [--rounds 3]``.

Two hosts with one simulated GPU each work on clips of a few seconds. A fault hits while a clip denoises; the time is
taken on the database's clock from the fault to the next claim of that clip's step (for a broker or database: to the
next claim of any step). A model's load is not in it: the generator loads nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from db import jobs
from pipeline.settings import WorkerSettings
from tests.cluster import QUICK, wait_for
from tests.faults.world import Host, World, running_world

DEFAULTS = {
    name: str(WorkerSettings.model_fields[name.removeprefix("VGEN_WORKER_").lower()].default)
    for name in QUICK
    if name.startswith("VGEN_WORKER_")
}
STEPS = 120
"""Of 50 ms each: a clip of 6 s."""
CLIPS = 60


def kill_generator(world: World, host: Host) -> None:
    for pid in host.generators():
        os.kill(pid, 9)


def kill_host(world: World, host: Host) -> None:
    host.kill()


def flush(world: World, host: Host) -> None:
    world.redis_command("FLUSHALL")


def restart_broker(world: World, host: Host) -> None:
    world.redis.restart()


def restart_database(world: World, host: Host) -> None:
    world.postgres.restart()


FAULTS: dict[str, tuple[Callable[[World, Host], None], bool]] = {
    "generator's child killed": (kill_generator, True),
    "host killed": (kill_host, True),
    "broker emptied": (flush, False),
    "broker restarted empty": (restart_broker, False),
    "database restarted": (restart_database, False),
}
"""What is done, and whether it is that clip's next claim that counts, or any."""


def seconds(world: World, batch_id: str, inflict: Callable[[World, Host], None], *, same: bool) -> float:
    """From the fault to the next claim."""
    job, attempt, host = world.wait_denoising(batch_id)
    began = world.database.now()
    inflict(world, host)
    which = f"job_id = '{job}' AND attempt > {attempt}" if same else f"batch_id = '{batch_id}'"
    query = f"SELECT min(started_at) FROM steps WHERE stage = 'generate' AND started_at > {began} AND {which}"
    wait_for(lambda: world.one(query) is not None, "the clip is claimed again", 180)
    claimed: int = world.one(query)
    if host.process is None:
        host.start()
        world.wait_ready(host)
    return (claimed - began) / 1000


def cancel(world: World, batch_id: str) -> None:
    """End the batch, and wait until the hosts have let go of it."""
    for (job_id,) in world.rows(f"SELECT id FROM jobs WHERE batch_id = '{batch_id}'"):
        with world.database.transaction() as session:
            jobs.cancel(session, job_id)
    world.wait_ended(batch_id)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(f"machine: {os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}")
    print(", ".join(f"{name.removeprefix('VGEN_WORKER_').lower()} {value}" for name, value in DEFAULTS.items()))
    with tempfile.TemporaryDirectory(prefix="vgen-bench-") as folder, running_world(Path(folder), **DEFAULTS) as world:
        world.start(world.host("a"), world.host("b"))
        for name, (inflict, same) in FAULTS.items():
            took = []
            for _ in range(rounds):
                batch_id = world.clips(CLIPS, steps=STEPS)
                took.append(seconds(world, batch_id, inflict, same=same))
                cancel(world, batch_id)
            print(f"{name:26} {statistics.median(took):6.1f} s  (from {min(took):.1f} to {max(took):.1f})", flush=True)


if __name__ == "__main__":
    main()
