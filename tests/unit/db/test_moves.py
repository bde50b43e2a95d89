"""A state changes by a move of ``pipeline.states`` alone, in code and in rows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from db.models import Job, ScoreStep, Step
from db.moves import LeasedTable, moving
from db.session import Database
from pipeline.states import JOB_MOVES, STEP_MOVES, JobState, StepState
from tests.conftest import REPOSITORY
from tests.moves import watched
from tests.unit.db.line import Line

CODE = [path for room in ("db", "tasks", "cli") for path in sorted((REPOSITORY / room).rglob("*.py"))]
OTHER_STATES = {"EvalRun"}
"""Rows whose states are none of jobs and steps."""


@pytest.mark.parametrize("table", [Step, ScoreStep])
def test_a_move_that_is_not_in_the_table_cannot_be_written(table: LeasedTable) -> None:
    for was, to in product(StepState, StepState):
        if to in STEP_MOVES[was]:
            moving(table, to, was)
        else:
            with pytest.raises(ValueError, match=f"{was} -> {to}"):
                moving(table, to, was)
    for was_job, to_job in product(JobState, JobState):
        if to_job not in JOB_MOVES[was_job]:
            with pytest.raises(ValueError, match=f"{was_job} -> {to_job}"):
                moving(Job, to_job, was_job)


def test_a_row_in_another_state_stays_as_it_is(database: Database) -> None:
    line = Line(database)
    job_id = f"{line.submit(count=1)}-000000"
    before = line.snapshot()

    with database.transaction() as session:
        for to in (StepState.RUNNING, StepState.DONE, StepState.FAILED, StepState.SKIPPED):
            moved = session.connection().execute(moving(Step, to).where(Step.job_id == job_id).values(queue="q"))
            assert moved.rowcount == 0, to

    assert line.snapshot() == before


def _writes(path: Path) -> Iterator[str]:
    """Where the file changes the state of a row other than by ``moving``: an attribute set, or an UPDATE's value."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [part for target in targets for part in ast.walk(target) if isinstance(part, ast.Attribute)]
            if any(name.attr == "state" for name in names):
                yield f"{path.relative_to(REPOSITORY)}:{node.lineno}"
        elif isinstance(node, ast.Call) and any(keyword.arg == "state" for keyword in node.keywords):
            calls = [part for part in ast.walk(node.func) if isinstance(part, ast.Call)]
            updated = [call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id == "update"]
            if any(ast.unparse(table) not in OTHER_STATES for table in updated):
                yield f"{path.relative_to(REPOSITORY)}:{node.lineno}"


def test_no_other_module_writes_a_state() -> None:
    places = [place for path in CODE if path.name != "moves.py" for place in _writes(path)]

    assert places == []
    assert list(_writes(REPOSITORY / "db/moves.py")), "the one place that does is found"


def test_a_move_of_a_row_that_no_code_meant_is_seen(database: Database) -> None:
    """Else the state machine, which is watched so, would prove nothing."""
    line = Line(database)
    job_id = f"{line.submit(count=1)}-000000"

    with pytest.raises(AssertionError, match="'waiting', 'done'"), watched(database):
        line.change(job_id, state=StepState.DONE)
    line.change(job_id, state=StepState.WAITING)
