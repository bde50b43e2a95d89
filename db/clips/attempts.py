"""The attempts at a batch's steps that have ended, those of its jobs and those of its evaluation runs."""

from typing import Any

from sqlalchemy import Subquery, false, literal, select, true, union_all

from db.base import EnumText
from db.models import Job, ScoreRun, StageRun
from pipeline.states import Stage

_SHARED = ("queue", "worker", "started_at", "ended_at", "outcome")


def attempts_of(batch_id: str) -> Subquery:
    """When, where and to what end they ran, as a table; ``evaluation`` is true where a step of a run was tried."""

    def columns(table: type[StageRun] | type[ScoreRun]) -> list[Any]:
        return [getattr(table, name) for name in _SHARED]

    score = literal(Stage.SCORE, EnumText(Stage)).label("stage")
    of_jobs = select(StageRun.stage, false().label("evaluation"), *columns(StageRun))
    of_runs = select(score, true().label("evaluation"), *columns(ScoreRun)).where(ScoreRun.batch_id == batch_id)
    own = of_jobs.join(Job, Job.id == StageRun.job_id).where(Job.batch_id == batch_id)
    return union_all(own, of_runs).subquery("attempts")
