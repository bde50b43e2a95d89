"""The contexts of this process's workers, by Celery application."""

from celery import Celery, Task

from pipeline.policy.routes import preset_slug_of
from pipeline.settings import current_settings
from tasks.worker.context import WorkerContext
from tasks.worker.stopping import stopping_since

_runtimes: dict[Celery, WorkerContext] = {}
"""Runtimes of this process by application. Made after the fork: connections must not be shared over it."""


def adopt(app: Celery, runtime: WorkerContext) -> None:
    """Use this runtime for the tasks of this application: a solo run makes its own."""
    _runtimes[app] = runtime


def drop(app: Celery) -> None:
    """Close the application's runtime, if it has one."""
    runtime = _runtimes.pop(app, None)
    if runtime is not None:
        runtime.close()


def context_of(task: Task) -> WorkerContext:
    """The runtime of the worker that runs this task."""
    return _runtimes.get(task.app) or make_runtime(task.app, str(task.request.hostname))


def make_runtime(app: Celery, name: str) -> WorkerContext:
    runtime = WorkerContext(name, current_settings(), queues=consumed_queues(app), stopping=stopping_since)
    _runtimes[app] = runtime
    if runtime.model_loader is not None:
        runtime.model_loader.start()
    if runtime.prefetcher is not None:
        runtime.prefetcher.start()
    return runtime


def consumed_queues(app: Celery) -> tuple[str, ...]:
    """The queues that the worker was started with; those of presets come and go."""
    return tuple(sorted(queue for queue in app.amqp.queues.consume_from if preset_slug_of(queue) is None))


def known_apps() -> list[Celery]:
    """The applications that have a context in this process."""
    return list(_runtimes)


def forget_all() -> None:
    """Forget the contexts that the parent of a fork made, without closing them: they belong to the parent."""
    _runtimes.clear()
