"""The periodic Celery tasks: ``vgen beat`` sends them, an io worker runs them.

Rows say when it was last done, so that two beats, or one that was away for days, do no more than one would.
"""

import logging
from datetime import UTC, datetime
from typing import Any

from celery import Celery, Task
from celery.schedules import ParseException, crontab

from pipeline.errors import InputError, NotFoundError, SettingsError
from pipeline.policy.routes import IO_QUEUE
from pipeline.settings import Settings
from tasks.worker import contexts

logger = logging.getLogger(__name__)

SWEEP = "vgen.sweep"
NIGHTLY = "vgen.nightly"
VERDICTS = "vgen.verdicts"
VERDICT_EVERY_S = 300.0
"""The seconds between two checks whether a nightly's last clip is there."""
_HOUR_S = 3600.0


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Celery's ``beat_schedule``. A message that nobody took before the next one is dropped."""
    every_s = settings.sweep.every_h * 3600
    work: dict[str, dict[str, Any]] = {"sweep": _entry(SWEEP, every_s, expires_s=every_s)}
    if settings.nightly.crontab:
        try:
            when = crontab.from_string(settings.nightly.crontab)
        except (ParseException, ValueError, TypeError) as error:
            raise SettingsError(f"VGEN_NIGHTLY_CRONTAB {settings.nightly.crontab!r}: {error}") from None
        work["nightly"] = _entry(NIGHTLY, when, expires_s=_HOUR_S)
        work["verdicts"] = _entry(VERDICTS, VERDICT_EVERY_S, expires_s=VERDICT_EVERY_S)
    return work


def _entry(task: str, schedule: Any, *, expires_s: float) -> dict[str, Any]:
    return {"task": task, "schedule": schedule, "options": {"queue": IO_QUEUE, "expires": expires_s}}


def register(app: Celery) -> None:
    """Give the application its periodic tasks."""
    from tasks.upkeep.sweeper import sweep_if_due  # noqa: PLC0415

    @app.task(bind=True, name=SWEEP, shared=False)  # type: ignore[untyped-decorator]
    def sweep(task: Task) -> None:
        runtime = contexts.context_of(task)
        sweep_if_due(runtime.database, lambda: runtime.storage, runtime.settings)

    @app.task(bind=True, name=NIGHTLY, shared=False)  # type: ignore[untyped-decorator]
    def nightly(task: Task) -> None:
        from tasks.upkeep import nightly as work  # noqa: PLC0415  # it loads the scorers, which no other task here needs

        runtime = contexts.context_of(task)
        try:
            plan = work.Plan.of_settings(runtime.settings)
            night = datetime.now(UTC).date().isoformat()
            run_id, batch_id = work.submit(runtime.database, runtime.settings, plan, night=night)
        except (InputError, NotFoundError) as error:  # of its settings or its suite: trying again would not help
            logger.error("no nightly evaluation", extra={"reason": str(error)})
            return
        logger.info(
            "nightly evaluation begun",
            extra={"run": run_id, "batch": batch_id, "detectable": work.before_the_night(plan, runtime.settings)},
        )

    @app.task(bind=True, name=VERDICTS, shared=False)  # type: ignore[untyped-decorator]
    def verdicts(task: Task) -> None:
        from tasks.upkeep import nightly as work  # noqa: PLC0415

        runtime = contexts.context_of(task)
        work.judge_ended(runtime.database, runtime.storage, runtime.settings)
