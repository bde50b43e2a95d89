"""A Celery worker forked from ``vgen worker``: imports are done once per host, and their memory is shared.

The forking process must have one thread and no open connection.
"""

import gc
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.process import BaseProcess

from pipeline import processes
from pipeline.policy.routes import gpu_type_of
from pipeline.processes import stop_signals
from pipeline.settings import Settings
from pipeline.states import Stage
from pipeline.wiring import make_storage
from tasks.app import app
from tasks.broker import is_redis

_PRELOADED = ("celery.apps.worker", "celery.worker.consumer", "celery.concurrency.prefork", "kombu.transport.redis")
_LIGHT_STAGES = (Stage.ENCODE, Stage.PUBLISH)
"""The packages whose modules the workers of every host need, and that start no thread when they are loaded."""


@dataclass(frozen=True, slots=True)
class Role:
    """The role of one worker. ``env`` is added to its environment, which its pool and generator inherit."""

    name: str
    queues: Sequence[str]
    concurrency: int
    env: Mapping[str, str] = field(default_factory=dict)


def preload(settings: Settings) -> None:
    """Load what the workers are going to need, in the process that forks them."""
    for module in (*_PRELOADED, *(f"pipeline.stages.{stage.value}" for stage in _LIGHT_STAGES)):
        import_module(module)
    make_storage(settings)


def start(role: Role, name: str, settings: Settings) -> BaseProcess:
    """Fork a worker of this node name that lives in a session of its own and drains when this process dies (Linux)."""
    # What is here now stays here: a collection in a child would copy every page that it looks at.
    gc.freeze()
    process = multiprocessing.get_context("fork").Process(
        target=_run, args=(role, name, settings, os.getpid()), name=role.name, daemon=False
    )
    # A signal between the fork and the child's first line would set a flag that nobody there reads.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def _run(role: Role, name: str, settings: Settings, parent: int) -> None:
    # A group of its own: a Ctrl-C at the terminal reaches the parent alone, which passes on one clean signal.
    os.setsid()
    for number in stop_signals():
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stop_signals())
    processes.set_process_name(f"vgen-{role.name}")
    # A worker whose `vgen worker` was killed drains: nobody would start it again, or stop it, any more.
    if not processes.die_with_parent(parent, signal.SIGTERM):
        return
    os.environ.update(role.env)
    logging.getLogger().handlers.clear()  # the command line's; Celery has its own, which name the process
    if any(gpu_type_of(queue) for queue in role.queues) and is_redis(settings):
        # A busy GPU worker holds no waiting message, so that a long clip delays no short one. Redis only; not for
        # the other workers, whose steps are short and would each wait for the next poll.
        app.conf.worker_disable_prefetch = True
    worker = app.Worker(
        hostname=name,
        pool="prefork",
        concurrency=role.concurrency,
        queues=list(role.queues),
        loglevel=settings.log_level,
        task_events=True,
        without_mingle=True,
        without_gossip=True,
        quiet=True,
    )
    worker.start()
    sys.exit(worker.exitcode)
