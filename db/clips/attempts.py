"""The rows of attempts that have ended."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import BigInteger, Table, bindparam, insert
from sqlalchemy.orm import Session

from db import measurements
from db.clips import spending
from db.models import StageRun
from db.session import now_ms
from pipeline.states import Stage

_RUN = insert(cast(Table, StageRun.__table__)).values(ended_at=now_ms() - bindparam("p_beside_ms", type_=BigInteger))


def record_attempt(session: Session, *, overlapped_ms: int = 0, resumed: bool = False, **columns: Any) -> None:
    """Write the row of an attempt that has just ended; ``columns`` are those of ``StageRun`` but ``ended_at``.

    ``overlapped_ms``: see ``Claim``; ``resumed``: it went on from a checkpoint.
    """
    session.connection().execute(_RUN, {**columns, "p_beside_ms": overlapped_ms})
    measurements.record_attempt(session, step_id=columns["step_id"], attempt=columns["attempt"], resumed=resumed)
    if columns["stage"] is Stage.GENERATE:
        started_at = columns["started_at"] + overlapped_ms  # the same length of time
        spending.charge(session, job_id=columns["job_id"], queue=columns["queue"], started_at=started_at)
