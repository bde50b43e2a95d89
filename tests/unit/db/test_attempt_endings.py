"""What a worker may not change once its lease is lost, whichever way it ends its attempt."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from db.clips import cancel_retry_approve
from db.queue import leases, outcomes, recovery
from db.session import Database
from pipeline.errors import FatalError
from pipeline.states import Stage
from pipeline.work import Claim
from tests.unit.db.line import LEASE_MS, Line


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def _finish(line: Line, claimed: Claim) -> bool:
    return line.finish(claimed).recorded


def _fail(line: Line, claimed: Claim) -> bool:
    with line.database.transaction() as session:
        return outcomes.fail(session, claimed, FatalError("late")).recorded


def _release(line: Line, claimed: Claim) -> bool:
    with line.database.transaction() as session:
        return outcomes.release(session, claimed).recorded


def _rewind(line: Line, claimed: Claim) -> bool:
    with line.database.transaction() as session:
        return outcomes.rewind(session, claimed, to=Stage.GENERATE, reason="late").recorded


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("act", [_finish, _fail, _release, _rewind])
def test_a_worker_that_lost_its_lease_changes_nothing(
    line: Line, act: Callable[[Line, Claim], bool], cancelled: bool
) -> None:
    # given a step whose first attempt lost its lease and whose second is running
    _, job_id, zombie = line.bring_to(Stage.ENCODE)
    line.expire(job_id)
    with line.database.transaction() as session:
        assert recovery.end_leases(session) == 1
    line.go_on(job_id, Stage.ENCODE)
    if cancelled:
        with line.database.transaction() as session:
            cancel_retry_approve.cancel(session, job_id)
    before = line.snapshot()

    # when the first attempt speaks up
    assert not act(line, zombie)

    # then only a fenced event tells of it
    assert line.snapshot() == before
    assert line.events(job_id).count("fenced") == 1
    with line.database.transaction() as session:
        assert not leases.renew(session, zombie, lease_ms=LEASE_MS).held
    assert line.snapshot() == before


def test_an_attempt_that_has_ended_renews_nothing(line: Line) -> None:
    _, _, claimed = line.bring_to(Stage.SCREEN)
    assert line.finish(claimed).recorded
    before = line.snapshot()

    with line.database.transaction() as session:
        assert not leases.renew(session, claimed, lease_ms=LEASE_MS).held

    assert line.snapshot() == before
