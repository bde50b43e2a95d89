"""The Celery application."""

import logging
from functools import cached_property
from types import ModuleType
from typing import Any

from celery import Celery, signals
from celery.app.amqp import AMQP
from celery.loaders.app import AppLoader
from kombu import Exchange

from pipeline import failpoints
from pipeline.redaction import redact_logs


class _PathLoader(AppLoader):  # type: ignore[misc]
    """Celery's loader without its habit to put the current folder, which may be somebody else's, in front of
    ``sys.path`` while it imports."""

    def import_from_cwd(self, module: str, imp: Any = None, package: str | None = None) -> ModuleType:
        imported: ModuleType = (imp or self.import_module)(module, package=package)
        return imported


class _Amqp(AMQP):  # type: ignore[misc]  # Celery has no types
    """Celery's, whose queues are bound to no exchange: messages name their queue.

    A binding is a key in Redis that nobody removes, and each session has a queue of its own.
    """

    autoexchange = staticmethod(lambda name: Exchange(""))


class _Application(Celery):  # type: ignore[misc]  # Celery has no types
    """Celery's, with vgen's form of the worker program, and queues without bindings."""

    amqp_cls = _Amqp

    @cached_property
    def Worker(self) -> Any:  # noqa: N802  # Celery's name
        return self.subclass_with_self("tasks.hosts.worker_program:Worker")


def make_app() -> Celery:
    """A new application with the tasks of the line.

    A process that is one worker uses ``app``; a solo run, which is several workers in one process, makes one
    application for each, because an application consumes one set of queues.
    """
    failpoints.require_valid()
    application = _Application("vgen", set_as_current=False, loader=_PathLoader)
    application.config_from_object("tasks.config")
    from tasks import stages  # noqa: PLC0415  # the tasks' modules import this one's names
    from tasks.upkeep import schedule  # noqa: PLC0415  # the tasks' modules import this one's names

    stages.register(application)
    schedule.register(application)
    return application


@signals.after_setup_logger.connect  # type: ignore[untyped-decorator]
@signals.after_setup_task_logger.connect  # type: ignore[untyped-decorator]
def _redact(logger: logging.Logger | None = None, **_: Any) -> None:
    """Redact what Celery logs: a broker's URL may hold a secret in a place where Celery does not look for one."""
    redact_logs(logger)
    redact_logs()


app = make_app()
"""The application of this process: of a worker, the dispatcher, beat and Flower."""
app.set_current()

import tasks.lifecycle  # noqa: E402, F401  # connects Celery's signals
