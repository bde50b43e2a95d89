"""What is done now and then rather than for a job: ``celery -A tasks beat`` sends it, an io worker does it.

Rows say when it was last done, so that two beats, or one that was away for days, do no more than one would.
"""

from __future__ import annotations

from typing import Any

from celery import Celery, Task

from pipeline.plan import IO_QUEUE
from pipeline.settings import Settings

SWEEP = "vgen.sweep"


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Celery's ``beat_schedule``. A message that nobody took before the next one is dropped."""
    every_s = settings.sweep.every_h * 3600
    return {"sweep": {"task": SWEEP, "schedule": every_s, "options": {"queue": IO_QUEUE, "expires": every_s}}}


def register(app: Celery) -> None:
    """Give the application its periodic tasks."""
    from tasks import lifecycle  # noqa: PLC0415  # it imports the application, whose settings import this module
    from tasks.sweep import sweep_if_due  # noqa: PLC0415

    @app.task(bind=True, name=SWEEP, shared=False)  # type: ignore[untyped-decorator]
    def sweep(task: Task) -> None:
        runtime = lifecycle.runtime_of(task)
        sweep_if_due(runtime.database, lambda: runtime.storage, runtime.settings)
