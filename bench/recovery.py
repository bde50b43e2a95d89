"""Measures the time from a fault until work resumes, with default settings: ``python -m bench.recovery [--rounds 3]``.

Two hosts with one simulated GPU each. For a dead generator or host one long clip denoises while nothing else
waits: the time is that from the fault to the next claim of the clip's step, on the database's clock, and to its first
step of denoising after the fault; a load of the model in between is told apart. For a broker or database short clips
are made, many at once, and the time is that to the next claim of a clip.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from db.clips import cancel_retry_approve
from pipeline.errors import ServiceUnavailableError
from pipeline.settings import WorkerSettings
from tests.cluster import QUICK, wait_for
from tests.faults.fault_cluster import World, running_world
from tests.faults.host import Host

DEFAULTS = {
    name: str(WorkerSettings.model_fields[name.removeprefix("VGEN_WORKER_").lower()].default)
    for name in QUICK
    if name.startswith("VGEN_WORKER_")
}
LONG_STEPS = 1_000
"""Denoising steps of 50 ms each: a clip of 50 s, the longest that a request may ask for."""
SHORT_STEPS = 4
SHORT_CLIPS = 200


@dataclass(frozen=True)
class Times:
    """Seconds from the fault."""

    claimed: float
    loading: float = 0.0
    """Within those: a load of the model on the worker that claimed it."""
    denoising: float | None = None
    """The seconds to the first step of denoising; None where that was not measured."""


def kill_generator(world: World, host: Host) -> None:
    for pid in host.generators():
        os.kill(pid, 9)


def kill_host(world: World, host: Host) -> None:
    host.kill()


def flush(world: World) -> None:
    world.redis_command("FLUSHALL")


def restart_broker(world: World) -> None:
    world.redis.restart()


def restart_database(world: World) -> None:
    world.postgres.restart()


ONE_CLIP: dict[str, Callable[[World, Host], None]] = {
    "generator's child killed": kill_generator,
    "host killed": kill_host,
}
MANY_CLIPS: dict[str, tuple[Callable[[World], None], bool]] = {
    "broker emptied": (flush, True),
    "broker restarted empty": (restart_broker, True),
    "database restarted": (restart_database, False),
}
"""The fault, and whether messages are lost with it: then the first clip that is sent again counts, else any."""


def of_one_clip(world: World, inflict: Callable[[World, Host], None]) -> Times:
    """Nothing waits but the clip that is hit; the other host is idle and holds the model."""
    warm_up(world)
    batch_id = world.clips(1, steps=LONG_STEPS)
    job, attempt, host = world.wait_denoising(batch_id)
    time.sleep(2)
    began, clock = world.database.now(), time.time()
    inflict(world, host)
    mark = world.folder / f"first-step-{began}"
    for other in world.hosts.values():
        other.fail(f"denoise_step=sleep:0!{mark}")
    query = f"""SELECT started_at, worker FROM steps
        WHERE job_id = '{job}' AND stage = 'generate' AND attempt > {attempt} AND state = 'running'"""
    wait_for(lambda: bool(world.rows(query)) and mark.exists(), "the clip goes on", 180)
    claimed, worker = world.rows(query)[0]
    loads = f"""SELECT COALESCE(sum((data->>'seconds')::float), 0) FROM events WHERE kind = 'model_loaded'
        AND at BETWEEN {began} AND {claimed} AND data->>'worker' = '{worker}'"""
    times = Times((claimed - began) / 1000, float(world.one(loads)), mark.stat().st_mtime - clock)
    cancel(world, batch_id)
    for other in world.hosts.values():
        other.fail("")
    if host.process is None:
        host.start()
        world.wait_ready(host)
    return times


def warm_up(world: World) -> None:
    """Make both hosts load the model, with nothing left waiting."""
    batch_id = world.clips(12, steps=10 * SHORT_STEPS)
    of_hosts = " OR ".join(f"name LIKE '%-{host.pid}@%'" for host in world.hosts.values())
    loaded = f"SELECT count(*) FROM workers WHERE loaded = 'idle' AND assigned_preset = 'idle' AND ({of_hosts})"
    wait_for(lambda: world.one(loaded) == len(world.hosts), "both hosts hold the model")
    world.wait_ended(batch_id)


def of_many_clips(world: World, inflict: Callable[[World], None], *, sent_again: bool) -> Times:
    """Until a clip is claimed."""
    batch_id = world.clips(SHORT_CLIPS, steps=SHORT_STEPS)
    world.wait_denoising(batch_id)
    time.sleep(2)
    began = world.database.now()
    inflict(world)
    query = f"""SELECT min(started_at) FROM steps WHERE batch_id = '{batch_id}' AND stage = 'generate'
        AND started_at > {began}"""
    if sent_again:
        query += f" AND dispatched_at > {began}"
    wait_for(lambda: world.one(query) is not None, "a clip is claimed again", 180)
    claimed: int = world.one(query)
    cancel(world, batch_id)
    return Times((claimed - began) / 1000)


def cancel(world: World, batch_id: str) -> None:
    """End the batch, and wait until the hosts have let go of it."""
    ids = [job_id for (job_id,) in world.rows(f"SELECT id FROM jobs WHERE batch_id = '{batch_id}'")]

    def asked() -> bool:
        with contextlib.suppress(ServiceUnavailableError):  # its connection is from before the restart
            with world.database.transaction() as session:
                cancel_retry_approve.cancel_all(session, ids)
            return True
        return False

    wait_for(asked, "the batch is cancelled")
    world.wait_ended(batch_id)


def summary(name: str, rounds: list[Times]) -> str:
    def spread(values: list[float]) -> str:
        return f"{statistics.median(values):5.1f} s ({min(values):.1f} to {max(values):.1f})"

    text = f"{name:26} claimed {spread([times.claimed for times in rounds])}"
    if any(times.loading for times in rounds):
        text += f", of which loading {spread([times.loading for times in rounds])}"
    steps = [times.denoising for times in rounds if times.denoising is not None]
    return f"{text}, denoising {spread(steps)}" if steps else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="part of a fault's name")
    arguments = parser.parse_args()
    print(f"machine: {os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}")
    print(", ".join(f"{name.removeprefix('VGEN_WORKER_').lower()} {value}" for name, value in DEFAULTS.items()))
    with tempfile.TemporaryDirectory(prefix="vgen-bench-") as folder, running_world(Path(folder), **DEFAULTS) as world:
        world.start(world.host("a"), world.host("b"))
        for name, hit in ONE_CLIP.items():
            if arguments.only in name:
                print(summary(name, [of_one_clip(world, hit) for _ in range(arguments.rounds)]), flush=True)
        for name, (fault, again) in MANY_CLIPS.items():
            if arguments.only in name:
                rounds = [of_many_clips(world, fault, sent_again=again) for _ in range(arguments.rounds)]
                print(summary(name, rounds), flush=True)


if __name__ == "__main__":
    main()
