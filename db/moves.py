"""Makes every UPDATE of a state: it affects only rows whose state allows the move, and sets dependent columns."""

from enum import StrEnum
from typing import Any, cast

from sqlalchemy import Table, Update, update

from db.base import Base
from db.models import Job, ScoreStep, Step, StreamSession
from db.session import now_ms
from pipeline.errors import ConflictError
from pipeline.states import JOB_MOVES, SESSION_MOVES, STEP_MOVES, TERMINAL_JOB_STATES, JobState, SessionState, StepState

LeasedTable = type[Step] | type[ScoreStep]
LEASED: tuple[LeasedTable, ...] = (Step, ScoreStep)
"""The tables whose rows are claimed by workers."""

_NOBODY: dict[str, Any] = {"worker": None, "lease_until": None}
_AGAIN: dict[str, Any] = {**_NOBODY, "queue": None, "finished_at": None}
_OVER: dict[str, Any] = {**_NOBODY, "finished_at": now_ms()}
_COLUMNS: dict[StepState, dict[str, Any]] = {
    StepState.PENDING: _AGAIN,
    StepState.WAITING: _AGAIN,
    StepState.DISPATCHED: {"dispatched_at": now_ms()},
    StepState.RUNNING: {"started_at": now_ms()},
    **dict.fromkeys((StepState.DONE, StepState.SKIPPED, StepState.FAILED, StepState.CANCELLED), _OVER),
}
"""What a step's new state says of its other columns; who sends or claims it adds the queue or the lease."""


def table_of(entity: type[Base]) -> Table:
    return cast(Table, entity.__table__)


def sources(entity: type[Job] | LeasedTable, to: StrEnum) -> list[StrEnum]:
    """The states from which a row may come to that one."""
    moves: dict[Any, frozenset[Any]] = JOB_MOVES if entity is Job else STEP_MOVES
    return [state for state, targets in moves.items() if to in targets]


def moving(
    entity: type[Job] | LeasedTable, to: JobState | StepState, *from_: JobState | StepState, stays: bool = False
) -> Update:
    """An UPDATE to that state of rows in one of the states ``from_``, without which in any that allows it.

    ``stays`` takes rows that are there already along.

    Raises:
        ValueError: no row may come from one of these to that state.
    """
    allowed = sources(entity, to)
    if forbidden := [state for state in from_ if state not in allowed]:
        raise ValueError(f"{entity.__tablename__}: {forbidden[0]} -> {to} is not a move of pipeline.states")
    table, states = table_of(entity), [*(from_ or allowed), *((to,) if stays else ())]
    if isinstance(to, StepState):
        columns = _COLUMNS[to]
    else:
        columns = {"finished_at": now_ms() if to in TERMINAL_JOB_STATES else None}
    # One state is written as such: an index on live or on waiting steps is found by it.
    in_state = table.c.state == states[0] if len(states) == 1 else table.c.state.in_(states)
    return update(table).where(in_state).values(state=to, **columns)


def move_session(row: StreamSession, to: SessionState) -> None:
    """Change the state of a session whose row is locked. Raises ConflictError: it cannot become that."""
    if to not in SESSION_MOVES[row.state]:
        raise ConflictError(f"session {row.id}: it is {row.state.value} and cannot become {to.value}")
    row.state = to
