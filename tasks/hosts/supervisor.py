"""``vgen worker``: starts and restarts the Celery workers of one host, each as a process, in the foreground.

A GPU worker for every GPU, one for screening and encoding, one for enhancing, publishing and the timers. A worker that
dies is started again; SIGTERM, SIGHUP and the first Ctrl-C drain them, a second Ctrl-C ends them at once.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

from pipeline.errors import SettingsError
from pipeline.handoff import Handoff
from pipeline.models.gpus import find_gpus
from pipeline.names import check_gpu_type
from pipeline.policy.routes import CPU_QUEUE, IO_QUEUE, encode_queue, encode_slots, gpu_queue
from pipeline.processes import cause_of_death, stop_signals
from pipeline.settings import Settings
from tasks.hosts import forked_worker
from tasks.hosts.forked_worker import Role
from tasks.lifecycle import check_settings
from tasks.node_name import new_node_name
from tasks.worker import announcements

logger = logging.getLogger(__name__)

_RESTART_S = (0.5, 1.0, 2.0, 5.0, 15.0, 30.0)
_HEALTHY_S = 60.0
"""A worker that lived so long is started again at once when it dies."""
_POLL_S = 0.2
_KILL_AFTER_S = 30.0
"""Seconds beyond the grace time: a worker that has not ended by then is killed, and loses only what its rows know."""


@dataclass(slots=True)
class _Member:
    """One worker process that is kept alive."""

    role: Role
    name: str
    process: BaseProcess | None = None
    started: float = 0.0
    deaths: int = 0
    not_before: float = 0.0

    def start(self, settings: Settings) -> None:
        self.process = forked_worker.start(self.role, self.name, settings)
        self.started = time.monotonic()

    def look_after(self, settings: Settings) -> None:
        """Start the worker, or start it again when it died and its pause is over."""
        if self.process is None:
            if time.monotonic() >= self.not_before:
                self.start(settings)
            return
        code = self.process.exitcode
        if code is None:
            return
        lived = time.monotonic() - self.started
        self.deaths = 0 if lived >= _HEALTHY_S else self.deaths + 1
        pause = 0.0 if lived >= _HEALTHY_S else _RESTART_S[min(self.deaths, len(_RESTART_S)) - 1]
        facts = {"role": self.role.name, "pid": self.process.pid, "by": cause_of_death(code)}
        logger.error("worker died", extra={**facts, "lived_s": round(lived, 1), "again_in_s": pause})
        self.process = None
        self.not_before = time.monotonic() + pause

    def send(self, number: int) -> None:
        if self.process is not None and self.process.pid is not None and self.alive:
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End it and its pool at once."""
        if self.process is not None and self.process.pid is not None and self.alive:
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.killpg(self.process.pid, signal.SIGKILL)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.exitcode is None


def roles(settings: Settings, *, gpu: bool, cpu: bool, io: bool) -> list[Role]:
    """Return the roles of this host's workers.

    Raises:
        SettingsError: nothing is left to run, or the GPU type's name is not one.
    """
    handoff = Handoff.open(settings.effective_handoff_dir, settings.handoff_bytes)
    chosen: list[Role] = []
    if gpu:
        for device in find_gpus(settings.gpu_type, settings.gpu_count, settings.gpus_per_worker):
            try:
                check_gpu_type(device.type)
            except ValueError as error:
                raise SettingsError(f"VGEN_GPU_TYPE: {error}") from None
            env = {**device.device_env, "VGEN_GPU_MEMORY_BYTES": str(device.memory_bytes)}
            chosen.append(Role(f"gpu{device.index}", [gpu_queue(device.type)], 1, env))
    # Whoever generates encodes too: frames do not leave the host.
    if cpu or gpu:
        queues = [*([CPU_QUEUE] if cpu else []), encode_queue(handoff.id)]
        chosen.append(Role("cpu", queues, encode_slots(os.cpu_count() or 1, settings.encode.threads)))
    if io:
        chosen.append(Role("io", [IO_QUEUE], 2))
    if not chosen:
        raise SettingsError("nothing to run: choose at least one of GPU, CPU and IO work")
    return chosen


def run(settings: Settings, *, gpu: bool = True, cpu: bool = True, io: bool = True) -> int:
    """Run this host's workers until asked to stop, and return the exit code.

    Raises:
        SettingsError: no broker is set, or a setting contradicts another.
    """
    if settings.solo:
        raise SettingsError("VGEN_BROKER_URL: `vgen worker` needs a broker, such as redis://host:6379/0")
    check_settings(settings)
    workers = [_Member(role, new_node_name(role.name)) for role in roles(settings, gpu=gpu, cpu=cpu, io=io)]
    announcements.show()
    names = ", ".join(worker.role.name for worker in workers)
    announcements.announce(f"starting {len(workers)} workers of this host: {names}")
    forked_worker.preload(settings)
    stop, at_once = threading.Event(), threading.Event()

    def asked(number: int, frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            at_once.set()
        stop.set()

    for number in stop_signals():
        signal.signal(number, asked)
    while not stop.is_set():
        for worker in workers:
            worker.look_after(settings)
        stop.wait(_POLL_S)
    announcements.announce(
        f"stopping: what runs has {settings.worker.grace_s:g} s to end; Ctrl-C again ends it at once"
    )
    _drain(workers, settings, at_once)
    announcements.announce("all workers of this host have ended")
    return 0


def _drain(workers: Sequence[_Member], settings: Settings, at_once: threading.Event) -> None:
    for worker in workers:
        worker.send(signal.SIGTERM)
    deadline = time.monotonic() + settings.worker.grace_s + _KILL_AFTER_S
    while any(worker.alive for worker in workers):
        if at_once.is_set() or time.monotonic() > deadline:
            for worker in workers:
                worker.kill()
        time.sleep(_POLL_S)
