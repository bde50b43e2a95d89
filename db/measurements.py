"""Records what metrics count: one small row per event, in the transaction of the event.

``db.reading.totals`` adds them up. A row names others by their keys, so that a count is a count of those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import Table, insert
from sqlalchemy.orm import Session

from db.models import Measurement
from db.session import now_ms
from pipeline.states import JobState

ATTEMPT = "attempt"
JOB = "job"
BATCH = "batch"
MODEL_LOAD = "model_load"
VALUES = "values"

_RECORD = insert(cast(Table, Measurement.__table__)).inline().values(at=now_ms())


def record_attempt(
    session: Session, *, step_id: int, attempt: int, evaluation: bool = False, resumed: bool = False
) -> None:
    """Count an attempt whose row was just written.

    ``evaluation``: the step is an evaluation run's; ``resumed``: the attempt went on from a checkpoint.
    """
    flags = {name: True for name, value in (("evaluation", evaluation), ("resumed", resumed)) if value}
    _record(session, ATTEMPT, [{"step": step_id, "attempt": attempt, **flags}])


def record_ended(session: Session, job_ids: Sequence[str], state: JobState, *, code: str | None = None) -> None:
    """Count jobs that have just come to a terminal state; one that is tried again will come to another."""
    _record(session, JOB, [{"job": job_id, "state": state.value, "code": code} for job_id in job_ids])


def record_submitted(session: Session, jobs: Mapping[str, int]) -> None:
    """Count the jobs of a new batch; ``jobs`` says how many there are of each preset."""
    _record(session, BATCH, [{"jobs": dict(jobs)}])


def record_model_load(session: Session, preset: str) -> None:
    _record(session, MODEL_LOAD, [{"preset": preset}])


def record_values(session: Session, values: Mapping[tuple[str, str, str], float]) -> None:
    """Add to totals by their names, labels and buckets: for what no row tells, added up before."""
    facts = [[*key, value] for key, value in values.items()]
    _record(session, VALUES, [{"values": facts}] if facts else [])


def _record(session: Session, kind: str, facts: Sequence[dict[str, Any]]) -> None:
    if facts:
        session.connection().execute(_RECORD, [{"kind": kind, "data": fact} for fact in facts])
