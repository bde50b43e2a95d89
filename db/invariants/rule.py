"""An invariant, and the subqueries that several of them share.

A rule's query is a SELECT of the rows that break it: the first column names the batch or job, the others say what is
wrong with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, exists

from db.events import HISTORY_REMOVED
from db.models import Event, Job, Step
from pipeline.states import Stage, StepState

Query = Select[*tuple[Any, ...]]
LIVE = (StepState.DISPATCHED, StepState.RUNNING)
OPEN = (StepState.WAITING, *LIVE)
SUCCESS = (StepState.DONE, StepState.SKIPPED)


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that always holds, and the query for what breaks it."""

    name: str
    says: str
    broken: Query


def has_step(states: Sequence[StepState], stage: Stage | None = None) -> ColumnElement[bool]:
    """A condition: the job of the enclosing query has a step of its current roll in one of these states."""
    condition = (Step.job_id == Job.id) & (Step.roll == Job.roll) & Step.state.in_(states)
    return exists().where(condition if stage is None else condition & (Step.stage == stage))


def history_removed(batch_id: Any) -> ColumnElement[bool]:
    return exists().where(Event.batch_id == batch_id, Event.kind == HISTORY_REMOVED)
