"""Redaction of what Celery logs: a broker's URL may hold one in a place where Celery does not look for it."""

import logging
from typing import Any

from celery import signals

from pipeline.redaction import redact_logs


@signals.after_setup_logger.connect  # type: ignore[untyped-decorator]
@signals.after_setup_task_logger.connect  # type: ignore[untyped-decorator]
def _redact(logger: logging.Logger | None = None, **_: Any) -> None:
    redact_logs(logger)
    redact_logs()
