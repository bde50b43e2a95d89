"""Celery's signals: what a worker process makes when it starts and gives back when it ends."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from typing import Any

from celery import Celery, Task, signals

from pipeline.errors import SettingsError
from pipeline.plan import gpu_type_of, lane_of
from pipeline.settings import Settings, current_settings
from pipeline.stop_signals import hang_up_like_sigterm
from tasks.loops import Loops
from tasks.runtime import Runtime

logger = logging.getLogger(__name__)

_runtimes: dict[Celery, Runtime] = {}
"""Runtimes of this process by application. Made after the fork: connections must not be shared over it."""

_worker_pid = os.getpid()
"""Process of the worker itself, which its pool's children are not."""

_stop_since = multiprocessing.Value("d", 0.0)
"""When the worker began to stop (monotonic seconds, 0: not stopping); shared by the worker and its pool's children."""

_loops: dict[str, Loops] = {}

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


def adopt(app: Celery, runtime: Runtime) -> None:
    """Use this runtime for the tasks of this application: a solo run makes its own."""
    _runtimes[app] = runtime


def drop(app: Celery) -> None:
    """Close the application's runtime, if it has one."""
    runtime = _runtimes.pop(app, None)
    if runtime is not None:
        runtime.close()


def runtime_of(task: Task) -> Runtime:
    """The runtime of the worker that runs this task."""
    return _runtimes.get(task.app) or _make_runtime(task.app, str(task.request.hostname))


def _make_runtime(app: Celery, name: str) -> Runtime:
    runtime = Runtime(name, current_settings(), queues=consumed_queues(app), stopping=stopping_since)
    _runtimes[app] = runtime
    if runtime.keeper is not None:
        runtime.keeper.start()
    if runtime.read_ahead is not None:
        runtime.read_ahead.start()
    return runtime


def consumed_queues(app: Celery) -> tuple[str, ...]:
    """The queues that the worker was started with: lanes come and go."""
    return tuple(sorted(queue for queue in app.amqp.queues.consume_from if lane_of(queue) is None))


def stopping_since() -> float | None:
    """When this worker began to stop, or None."""
    since: float = _stop_since.value
    return since or None


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _note_stop(**_: Any) -> None:
    if not _stop_since.value:
        _stop_since.value = time.monotonic()


@signals.celeryd_init.connect  # type: ignore[untyped-decorator]
def _note_worker(sender: str = "", instance: Any = None, **_: Any) -> None:
    global _worker_pid, _stop_since
    if os.getpid() != _worker_pid:  # a fork of `vgen worker`: nothing is shared with the other workers of the host
        _worker_pid, _stop_since = os.getpid(), multiprocessing.Value("d", 0.0)
    _workers[instance.app] = sender


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _after_fork(**_: Any) -> None:
    # What the parent made belongs to the parent: a child makes its own when its first task comes. (The solo pool
    # sends this signal too, in the process that it shares with us.)
    if os.getpid() == _worker_pid:
        return
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the worker is told too, and drains
    _runtimes.clear()
    _loops.clear()
    for app, name in _workers.items():
        if any(gpu_type_of(queue) for queue in consumed_queues(app)):
            _make_runtime(app, name)  # before any task comes: the lane is read once its model is warm


@signals.worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _child_ends(**_: Any) -> None:
    if os.getpid() != _worker_pid:
        for application in list(_runtimes):
            drop(application)


@signals.beat_init.connect  # type: ignore[untyped-decorator]
def _beat_starts(**_: Any) -> None:
    if os.getpid() == _worker_pid:
        hang_up_like_sigterm()  # which has the schedule written


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _worker_ready(sender: Any = None, **_: Any) -> None:
    """Report the worker's presence; an io worker's parent also dispatches and reconciles."""
    controller = getattr(sender, "controller", None)
    if sender is None or controller is None or sender.app in _runtimes:
        return  # a solo run's own workers have been adopted, and it runs the loops itself
    settings = current_settings()
    loops = Loops.of_worker(
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
