"""The Celery application."""

from functools import cached_property
from typing import Any

from celery import Celery

from pipeline import failpoints
from tasks.loader import PathLoader


class _Application(Celery):  # type: ignore[misc]  # Celery has no types
    """Celery's, with vgen's form of the worker program."""

    @cached_property
    def Worker(self) -> Any:  # noqa: N802  # Celery's name
        return self.subclass_with_self("tasks.hosts.worker_program:Worker")


def make_app() -> Celery:
    """A new application with the tasks of the line.

    A process that is one worker uses ``app``; a solo run, which is several workers in one process, makes one
    application for each, because an application consumes one set of queues.
    """
    failpoints.require_valid()
    application = _Application("vgen", set_as_current=False, loader=PathLoader)
    application.config_from_object("tasks.config")
    from tasks import stages  # noqa: PLC0415  # the tasks' modules import this one's names
    from tasks.upkeep import schedule  # noqa: PLC0415  # the tasks' modules import this one's names

    stages.register(application)
    schedule.register(application)
    return application


app = make_app()
"""The application of this process: of a worker, the dispatcher, beat and Flower."""
app.set_current()

import tasks.lifecycle  # noqa: E402  # connects Celery's signals
import tasks.logs  # noqa: E402, F401
