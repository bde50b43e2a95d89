"""The faults that a storm chooses from. Each is a function of the world and the dice; what it returns mends it.

A fault that lasts returns its mending, which the storm calls some seconds later. ``target`` names what is broken
meanwhile: no second fault is done to it until it is mended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

import redis
from kombu import Connection
from sqlalchemy import text

from pipeline.policy.routes import CPU_QUEUE, IO_QUEUE, preset_queue
from tests.faults import operator_actions
from tests.faults.fault_cluster import World
from tests.faults.host import Host
from tests.faults.proxy import Mode, StoreFault

Mend = Callable[[], object]
Inflict = Callable[[World, Random], Mend | None]
QUEUES = (IO_QUEUE, CPU_QUEUE, preset_queue("cpu", "idle"))
BARE_QUEUES = ("celery",)
KILL_POINTS = (
    *(
        "after_claim",
        "before_work",
        "after_work",
        "after_finish",
        "dispatch_committed",
        "dispatch_sent",
        "lease_ending",
    ),
    *("frames_reserve", "frames_write", "denoise_step", "encode_write", "upload", "after_upload", "publish_verified"),
    "checkpoint_upload",
)


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    inflict: Inflict
    target: str
    weight: int = 2
    lasts_s: tuple[float, float] = (2.0, 6.0)
    bare: bool = False
    """True when pure Celery chains can meet it too: it needs neither rows nor a store."""


def _host(world: World, dice: Random) -> Host | None:
    alive = [host for host in world.hosts.values() if host.process is not None and host.process.poll() is None]
    return dice.choice(sorted(alive, key=lambda host: host.name)) if alive else None


def _kill(pid: int, *, group: bool = False) -> None:
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(pid, signal.SIGKILL)


# Processes


def kill_generator(world: World, dice: Random) -> None:
    pids = sorted(pid for host in world.hosts.values() for pid in host.generators())
    if pids:
        _kill(dice.choice(pids))


def kill_pool_child(world: World, dice: Random) -> None:
    pids = sorted(
        pid for host in world.hosts.values() for pid in set(host.members()) - set(host.parents()) if pid != os.getpid()
    )
    if pids:
        _kill(dice.choice(pids))


def kill_worker(world: World, dice: Random) -> None:
    host = _host(world, dice)
    if host and (pids := sorted(host.parents())):
        _kill(dice.choice(pids), group=True)


def kill_dispatcher(world: World, dice: Random) -> None:
    for host in world.hosts.values():
        for pid in host.parents("io"):
            _kill(pid, group=True)


def kill_parent(world: World, dice: Random) -> Mend | None:
    host = _host(world, dice)
    if host is None or host.process is None:
        return None
    host.process.kill()
    host.process.wait(10)
    return host.start


def kill_host(world: World, dice: Random) -> Mend | None:
    host = _host(world, dice)
    if host is None:
        return None
    host.kill()
    return host.start


def kill_everything(world: World, dice: Random) -> Mend:
    for host in world.hosts.values():
        host.kill()
    return lambda: [host.start() for host in world.hosts.values()]


def short_grace(world: World, dice: Random) -> Mend | None:
    host = _host(world, dice)
    if host is None or host.process is None:
        return None
    host.process.send_signal(signal.SIGTERM)

    def mend() -> None:
        host.kill()
        host.start()

    return mend


def freeze(world: World, dice: Random) -> Mend | None:
    host = _host(world, dice)
    if host is None:
        return None
    host.signal(signal.SIGSTOP)
    return lambda: host.signal(signal.SIGCONT)


def die_at_a_point(world: World, dice: Random) -> Mend | None:
    host = _host(world, dice)
    if host is None:
        return None
    host.fail(f"{dice.choice(KILL_POINTS)}={dice.choice(['kill', 'exit', 'killgroup'])}%0.5/{dice.randrange(10**6)}")
    return lambda: host.fail("")


def disk_full(world: World, dice: Random) -> Mend | None:
    host = _host(world, dice)
    if host is None:
        return None
    host.fail(f"{dice.choice(['frames_reserve', 'frames_write', 'encode_write'])}=enospc")
    return lambda: host.fail("")


def clock_jump(world: World, dice: Random) -> Mend | None:
    host = _host(world, dice)
    if host is None:
        return None
    host.clock(dice.choice([-3600.0, 3600.0]))
    return lambda: host.clock(0)


# Broker


def flush(world: World, dice: Random) -> None:
    world.redis_command("FLUSHALL")


def broker_restart(world: World, dice: Random) -> None:
    world.redis.kill()
    world.redis.start()


def broker_gone(world: World, dice: Random) -> Mend:
    world.redis.kill()
    return world.redis.start


def broker_cut(world: World, dice: Random) -> None:
    world.broker_proxy.cut()


def broker_half_open(world: World, dice: Random) -> Mend:
    world.broker_proxy.set(Mode.SWALLOW)
    return world.broker_proxy.heal


def broker_full(world: World, dice: Random) -> Mend:
    world.redis_command("CONFIG SET maxmemory 1mb")
    return lambda: world.redis_command("CONFIG SET maxmemory 0")


@contextlib.contextmanager
def _redis(world: World):  # type: ignore[no-untyped-def]
    with contextlib.suppress(redis.RedisError), redis.Redis(port=world.redis.port, socket_timeout=5) as client:
        yield client


def messages_disturbed(world: World, dice: Random) -> None:
    """Each queue's messages are shuffled, one is doubled, one deleted."""
    with _redis(world) as client:
        for queue in (*QUEUES, *BARE_QUEUES):
            messages = []
            while (message := client.rpop(queue)) is not None:
                messages.append(message)
            dice.shuffle(messages)
            for message in messages[1:] + messages[1:2]:
                client.lpush(queue, message)


def garbage(world: World, dice: Random) -> None:
    with _redis(world) as client:
        for queue in QUEUES:
            client.lpush(queue, dice.choice(["not json", json.dumps({"a": 1}), json.dumps([1])]))


def message_for_a_deleted_job(world: World, dice: Random) -> None:
    from tasks.app import make_app  # noqa: PLC0415

    app = make_app()
    app.conf.broker_url = world.redis.url
    with contextlib.suppress(Exception), app.connection_for_write(world.redis.url) as connection:
        for queue, task in zip(QUEUES, ("vgen.publish", "vgen.screen", "vgen.generate"), strict=True):
            app.send_task(task, ("deleted-000000", 0), queue=queue, connection=connection, retry=False)


def delivered_again(world: World, dice: Random) -> None:
    """What a worker with far too short a visibility timeout does to the others' running tasks."""
    with (
        contextlib.suppress(Exception),
        Connection(world.redis.url, transport_options={"visibility_timeout": 0}) as connection,
    ):
        for _ in range(12):
            connection.default_channel.qos.restore_visible(num=100, interval=1)


# Database


def database_restart(world: World, dice: Random) -> None:
    world.postgres._end(signal.SIGQUIT)
    world.postgres.start()


def database_cut(world: World, dice: Random) -> None:
    world.database_proxy.cut()


def database_away(world: World, dice: Random) -> Mend:
    world.database_proxy.set(Mode.REFUSE)
    world.database_proxy.cut()
    return world.database_proxy.heal


def database_half_open(world: World, dice: Random) -> Mend:
    world.database_proxy.set(Mode.SWALLOW)
    return world.database_proxy.heal


def database_read_only(world: World, dice: Random) -> Mend:
    world.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    world.execute("SELECT pg_reload_conf()")

    def mend() -> None:
        world.execute("ALTER SYSTEM RESET default_transaction_read_only")
        world.execute("SELECT pg_reload_conf()")

    return mend


def kill_server(world: World, dice: Random) -> None:
    """One of those that answer over HTTP, with what it was just answering; another begins in its place."""
    if world.servers:
        dice.choice(world.servers).kill_and_start()


# Store


def _store(fault: StoreFault) -> Inflict:
    def inflict(world: World, dice: Random) -> Mend:
        world.store_proxy.fail(fault, times=10, chance=0.6, seed=dice.randrange(10**6), slow_s=6.0)
        return world.store_proxy.heal

    return inflict


def object_gone(world: World, dice: Random) -> None:
    """An object that was uploaded and not yet recorded vanishes from the store."""

    rows = world.rows("SELECT output FROM steps WHERE stage = 'encode' AND state = 'done' ORDER BY id DESC LIMIT 5")
    published = {row[0] for row in world.rows("SELECT key FROM artifacts ORDER BY created_at DESC LIMIT 100")}
    keys = sorted({output["video"]["key"] for (output,) in rows if output} - published)
    if keys:
        key = dice.choice(keys)
        with world.database.transaction() as session:
            # Held, so that nobody claims it meanwhile: what is deleted after publish has looked is beyond our promise.
            unclaimed = session.execute(
                text(
                    "SELECT id FROM steps WHERE job_id = :job AND stage = 'publish' "
                    "AND state IN ('waiting', 'dispatched') FOR UPDATE"
                ),
                {"job": key.split("/")[1]},
            ).one_or_none()
            if unclaimed is not None:
                world.store.delete(key)


FAULTS: Mapping[str, Fault] = {
    "kill the generator": Fault(kill_generator, "", 6),
    "kill a pool's child": Fault(kill_pool_child, "", 5, bare=True),
    "kill a worker": Fault(kill_worker, "", 6, bare=True),
    "kill every dispatcher": Fault(kill_dispatcher, "", 2),
    "kill vgen worker": Fault(kill_parent, "hosts", 1),
    "kill a host": Fault(kill_host, "hosts", 2, bare=True),
    "kill a server": Fault(kill_server, "", 4),
    "kill everything": Fault(kill_everything, "hosts", 1, bare=True),
    "SIGTERM, then too little grace": Fault(short_grace, "hosts", 2, (0.2, 1.5), bare=True),
    "freeze a host beyond its leases": Fault(freeze, "hosts", 2, (4.0, 7.0), bare=True),
    "die at a failpoint": Fault(die_at_a_point, "points", 8, (1.0, 3.0)),
    "disk full": Fault(disk_full, "points", 2, (1.0, 4.0)),
    "clock off by an hour": Fault(clock_jump, "clock", 2, bare=True),
    "FLUSHALL": Fault(flush, "", 4, bare=True),
    "broker restarts empty": Fault(broker_restart, "broker", 3, bare=True),
    "broker gone": Fault(broker_gone, "broker", 2, bare=True),
    "broker connections cut": Fault(broker_cut, "", 4, bare=True),
    "broker half-open": Fault(broker_half_open, "broker", 1, bare=True),
    "broker full": Fault(broker_full, "broker", 1, bare=True),
    "messages lost, doubled, shuffled": Fault(messages_disturbed, "", 5, bare=True),
    "garbage messages": Fault(garbage, "", 2),
    "messages for a deleted job": Fault(message_for_a_deleted_job, "", 2),
    "running tasks delivered again": Fault(delivered_again, "", 3, bare=True),
    "database restarts": Fault(database_restart, "database", 2),
    "database connections cut": Fault(database_cut, "", 4),
    "database away": Fault(database_away, "database", 2),
    "database half-open": Fault(database_half_open, "database", 1),
    "database read-only": Fault(database_read_only, "database", 2),
    **{f"store: {fault.value}": Fault(_store(fault), "store", 2) for fault in StoreFault if fault != StoreFault.DENIED},
    "an uploaded object vanishes": Fault(object_gone, "", 2),
    "cancel": Fault(operator_actions.cancel_some, "", 3),
    "retry": Fault(operator_actions.retry_some, "", 3),
    "pause": Fault(operator_actions.pause, "pause", 2),
    "pause a queue": Fault(operator_actions.pause_queue, "queues", 1),
    "budget": Fault(operator_actions.budget, "budget", 1),
    "close a session": Fault(operator_actions.close_session, "", 3),
    "one key from eight submitters": Fault(operator_actions.same_key_eight_times, "", 1),
}
"""Every fault, by the name that the report shows."""
