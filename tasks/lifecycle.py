"""Celery's signals: what a worker process creates when it starts and closes when it ends."""

import logging
import os
import signal
from typing import Any

from celery import Celery, signals

from pipeline.errors import SettingsError
from pipeline.policy.routes import gpu_type_of
from pipeline.processes import hang_up_like_sigterm
from pipeline.settings import Settings, current_settings
from tasks.upkeep.timers import Timers
from tasks.worker import announcements, contexts
from tasks.worker.contexts import consumed_queues, drop, make_runtime
from tasks.worker.stopping import begin_in_fork, note_stop, stopping_since

logger = logging.getLogger(__name__)
_worker_pid = os.getpid()
"""Process of the worker itself, which its pool's children are not."""

_loops: dict[str, Timers] = {}

_workers: dict[Celery, str] = {}
"""Name of the worker of each application of this process; its pool's children inherit it."""


def check_settings(settings: Settings) -> None:
    """Raises SettingsError when the broker would deliver a running task again."""
    worker = settings.worker
    longest = max(worker.load_deadline_s + worker.step_deadline_s, settings.encode.timeout_s)
    if worker.visibility_timeout_s <= longest:
        raise SettingsError(
            f"VGEN_WORKER_VISIBILITY_TIMEOUT_S: {worker.visibility_timeout_s} must exceed the longest stage "
            f"without a sign of life, {longest:g} s (loading and one step, or encoding)"
        )


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _note_stop(**_: Any) -> None:
    note_stop()


@signals.celeryd_init.connect  # type: ignore[untyped-decorator]
def _note_worker(sender: str = "", instance: Any = None, **_: Any) -> None:
    global _worker_pid  # noqa: PLW0603  # a fork of a process that had one is a worker of its own
    if os.getpid() != _worker_pid:  # a fork of `vgen worker`: nothing is shared with the other workers of the host
        _worker_pid = os.getpid()
        begin_in_fork()
    _workers[instance.app] = sender


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _after_fork(**_: Any) -> None:
    # What the parent made belongs to the parent: a child makes its own when its first task comes. (The solo pool
    # sends this signal too, in the process that it shares with us.)
    if os.getpid() == _worker_pid:
        return
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the worker is told too, and drains
    contexts.forget_all()
    _loops.clear()
    for app, name in _workers.items():
        if any(gpu_type_of(queue) for queue in consumed_queues(app)):
            make_runtime(app, name)  # before any task comes: the preset's queue is read once its model is warm


@signals.worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _child_ends(**_: Any) -> None:
    if os.getpid() != _worker_pid:
        for application in contexts.known_apps():
            drop(application)


@signals.beat_init.connect  # type: ignore[untyped-decorator]
def _beat_starts(**_: Any) -> None:
    if os.getpid() == _worker_pid:
        hang_up_like_sigterm()  # which has the schedule written


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _worker_ready(sender: Any = None, **_: Any) -> None:
    """Report the worker's presence; an io worker's parent also dispatches and reconciles."""
    controller = getattr(sender, "controller", None)
    if sender is None or controller is None or sender.app in contexts.known_apps():
        return  # a solo run's own workers have been adopted, and it runs the loops itself
    settings = current_settings()
    loops = Timers.of_worker(
        sender.app,
        settings,
        name=sender.hostname,
        queues=consumed_queues(sender.app),
        slots=int(controller.concurrency or 1),
        memory_bytes=int(os.environ.get("VGEN_GPU_MEMORY_BYTES", "0")) or None,
        stopping=stopping_since,
        consumer=lambda: controller.consumer,
    )
    _loops[sender.hostname] = loops
    loops.start()
    role, queues = announcements.role_of(sender.hostname), consumed_queues(sender.app)
    announcements.announce(f"{role} is ready: {announcements.work_on(queues)}", at_once=controller.concurrency or 1)


@signals.task_received.connect  # type: ignore[untyped-decorator]
def _note_message(sender: Any = None, **_: Any) -> None:
    for loops in _loops.values():
        if loops.watchdog is not None:
            loops.watchdog.heard()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _worker_gone(sender: Any = None, **_: Any) -> None:
    for loops in list(_loops.values()):
        loops.stop()
    _loops.clear()
