"""The rows of attempts that have ended."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import Table, insert
from sqlalchemy.orm import Session

from db import budgets
from db.models import StageRun
from db.session import now_ms
from pipeline.states import Stage

_RUN = insert(cast(Table, StageRun.__table__)).values(ended_at=now_ms())


def record_attempt(session: Session, **columns: Any) -> None:
    """Write the row of an attempt that has just ended; ``columns`` are those of ``StageRun`` but ``ended_at``."""
    session.connection().execute(_RUN, columns)
    if columns["stage"] is Stage.GENERATE:
        budgets.charge(session, job_id=columns["job_id"], queue=columns["queue"], started_at=columns["started_at"])
