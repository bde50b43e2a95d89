"""Steps that return to waiting undone."""

from __future__ import annotations

import pytest

from db.queue import outcomes
from db.session import Database
from pipeline.states import JobState, Stage, StepState
from tests.unit.db.line import Line


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def test_a_release_is_no_failed_attempt(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.GENERATE)

    with line.database.transaction() as session:
        assert outcomes.release(session, claimed).recorded

    step = line.step(job_id, Stage.GENERATE)
    assert (step.state, step.errors, step.crashes, step.losses) == (StepState.WAITING, 0, 0, 0)
    assert line.job(job_id).state is JobState.WAITING
    line.finish_job(job_id)
