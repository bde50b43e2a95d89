"""The same storm over pure Celery chains: what is lost when messages are the truth."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random

from tests import servers
from tests.cluster import REPOSITORY
from tests.faults.fault_cluster import CLOCK, IDLE_STEP_S, World
from tests.faults.fault_kinds import FAULTS
from tests.faults.host import Host
from tests.faults.proxy import Proxy, running_proxies
from tests.faults.random_faults import Storm

QUIET_S = 45.0
"""Nothing more is expected when no job ended for so long: four visibility timeouts."""


class BareHost(Host):
    """A Celery worker with two children, which is killed and started like a host."""

    def start(self, *arguments: str, **env: str) -> None:
        self.starts += 1
        command = [sys.executable, "-m", "celery", "-A", "tests.faults.bare_app", "worker", "-n", f"{self.name}@%h"]
        with (self.folder / "worker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "-c", "2", "--without-mingle", "--without-gossip", "-l", "WARNING", *arguments],
                env={**self.env, **env},
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def run(folder: Path, seconds: float, seed: int, total: int, hosts: int, between_s: tuple[float, float]) -> str:
    """Blow the storm of this seed, as far as chains can meet it, over about as many jobs; a line for the report."""
    notes = folder / "bare-notes"
    notes.touch()
    with servers.redis_server() as redis, running_proxies() as proxies:
        proxy = Proxy(proxies, redis.port)
        os.environ["BARE_BROKER_URL"] = redis.url
        from tests.faults import bare_app  # noqa: PLC0415  # reads where the broker is

        # Without a bound kombu waits for a broker that is away for ever, and the storm with it.
        impatient = {"max_retries": 1, "interval_start": 0.0, "interval_step": 0.1, "socket_timeout": 5}
        bare_app.app.conf.broker_transport_options = {**bare_app.app.conf.broker_transport_options, **impatient}
        env = {
            **os.environ,
            "PYTHONPATH": f"{CLOCK}{os.pathsep}{REPOSITORY}",
            "BARE_BROKER_URL": f"redis://127.0.0.1:{proxy.port}/0",
            "BARE_NOTES": str(notes),
        }
        world = World.__new__(World)  # the part of a world that faults of hosts and brokers ask for
        world.redis, world.broker_proxy = redis, proxy
        world.hosts = {f"bare{number}": _host(folder, f"bare{number}", env) for number in range(hosts)}
        try:
            for host in world.hosts.values():
                host.start()
            feeder = _Feeder(bare_app.send, notes, total, seconds, seed)
            names = [name for name, fault in FAULTS.items() if fault.bare]
            storm = Storm(seed)
            storm.blow(world, seconds, between_s, names=names, meanwhile=feeder.feed)
            feeder.send_rest()
            _wait_quiet(notes)
        finally:
            for host in world.hosts.values():
                host.kill()
    return _result(notes, feeder.sent, len(storm.happened))


def _host(folder: Path, name: str, env: Mapping[str, str]) -> BareHost:
    place = folder / name
    place.mkdir()
    home = {"VGEN_HOME": str(place / "home"), "VGEN_TEST_CLOCK_FILE": str(place / "clock")}
    return BareHost(name, place, {**env, **home})


class _Feeder:
    """Keeps a few chains in flight, as the line's own feeder does."""

    def __init__(self, send: object, notes: Path, total: int, seconds: float, seed: int) -> None:
        self._send = send
        self._notes = notes
        self._total = total
        self._pause = seconds / max(1, total)
        self._dice = Random(seed + 1)
        self._next = time.monotonic()
        self.sent = 0
        """Jobs whose chain the broker took: a submitter that was refused knows it."""

    def feed(self) -> None:
        while self.sent < self._total and time.monotonic() >= self._next:
            self._next += self._pause
            self._one()

    def send_rest(self) -> None:
        for _ in range(self._total - self.sent):
            self._one()

    def _one(self) -> None:
        try:
            self._send(self.sent, self._dice.randint(2, 40) * float(IDLE_STEP_S))  # type: ignore[operator]
        except Exception:  # noqa: BLE001  # the broker is away: it is tried again with the next one
            return
        self.sent += 1


def _wait_quiet(notes: Path) -> None:
    size, since = -1, time.monotonic()
    while time.monotonic() - since < QUIET_S:
        if notes.stat().st_size != size:
            size, since = notes.stat().st_size, time.monotonic()
        time.sleep(0.5)


def _result(notes: Path, sent: int, faults: int) -> str:
    found = Counter(tuple(line.split()) for line in notes.read_text("ascii").splitlines())
    ended = {number for (stage, number) in found if stage == "publish"}
    doubled = sum(times > 1 for (stage, _), times in found.items() if stage == "publish")
    again = sum(times - 1 for (stage, _), times in found.items() if stage == "generate")
    return (
        f"pure Celery chains, same seed, {faults} faults of hosts and broker: {sent} jobs, lost {sent - len(ended)}, "
        f"published twice {doubled}, generated again {again} times"
    )
