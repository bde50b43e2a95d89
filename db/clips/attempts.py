"""Reads the ended attempts of a batch: at its jobs' steps and at its evaluation runs' steps."""

from typing import Any

from sqlalchemy import ColumnElement, Subquery, and_, case, exists, false, literal, select, true, union_all

from db.base import EnumText
from db.models import Job, ScoreRun, StageRun, Step
from pipeline.states import AttemptOutcome, Stage

_SHARED = ("queue", "worker", "started_at", "ended_at", "outcome")


_INTERRUPTED = (AttemptOutcome.RELEASED, AttemptOutcome.RETRIED, AttemptOutcome.LEASE_ENDED)


def _went_on() -> ColumnElement[bool]:
    """Return whether a later attempt went on from a checkpoint of this one, or of one like it before."""
    resumed_from = Step.output["facts"]["resumed_from_step"].as_integer()
    later = exists().where(Step.id == StageRun.step_id, Step.attempt > StageRun.attempt, resumed_from > 0)
    return case((and_(StageRun.stage == Stage.GENERATE, StageRun.outcome.in_(_INTERRUPTED)), later), else_=false())


def attempts_of(batch_id: str) -> Subquery:
    """When, where and to what end they ran, as a table; ``evaluation`` is true where a step of a run was tried,
    ``continued`` where a later attempt went on from where this one was interrupted."""

    def columns(table: type[StageRun] | type[ScoreRun]) -> list[Any]:
        return [getattr(table, name) for name in _SHARED]

    score = literal(Stage.SCORE, EnumText(Stage)).label("stage")
    of_jobs = select(StageRun.stage, false().label("evaluation"), _went_on().label("continued"), *columns(StageRun))
    no = false().label("continued")
    of_runs = select(score, true().label("evaluation"), no, *columns(ScoreRun)).where(ScoreRun.batch_id == batch_id)
    own = of_jobs.join(Job, Job.id == StageRun.job_id).where(Job.batch_id == batch_id)
    return union_all(own, of_runs).subquery("attempts")
