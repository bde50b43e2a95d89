"""Earlier stages that are done again."""

from __future__ import annotations

import pytest

from db.queue import outcomes
from db.session import Database
from pipeline.policy.retry import MAX_LOSSES
from pipeline.states import Stage, StepState
from pipeline.work import Claim
from tests.unit.db.line import Line


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def _rewind(line: Line, claimed: Claim) -> bool:
    with line.database.transaction() as session:
        return outcomes.rewind(session, claimed, to=Stage.GENERATE, reason="gone").recorded


@pytest.mark.parametrize("stage", [Stage.ENCODE, Stage.PUBLISH])
def test_a_rewind_makes_the_frames_again(line: Line, stage: Stage) -> None:
    _, job_id, claimed = line.bring_to(stage)

    assert _rewind(line, claimed)

    expected = {Stage.SCREEN: StepState.DONE, Stage.GENERATE: StepState.WAITING, Stage.ENCODE: StepState.PENDING}
    if stage is Stage.PUBLISH:
        expected[Stage.PUBLISH] = StepState.PENDING
    assert line.states(job_id) == expected
    generate = line.step(job_id, Stage.GENERATE)
    assert (generate.errors, generate.crashes, generate.losses) == (0, 0, 0)
    assert "rewound" in line.events(job_id)
    line.finish_job(job_id)
    assert line.step(job_id, Stage.GENERATE).attempt == 2
    line.check_sums()


def test_rewinds_come_to_an_end(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.ENCODE)

    for _ in range(MAX_LOSSES - 1):
        assert _rewind(line, claimed)
        claimed = line.go_on(job_id, Stage.ENCODE)
    assert _rewind(line, claimed)

    assert line.job(job_id).error_code == "rewound_too_often"
    line.check_sums()
