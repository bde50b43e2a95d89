"""Checkpoints' rows: the newest wins, only the attempt that holds the step writes, and they go with the job."""

from __future__ import annotations

import pytest

from db.clips import cancel_retry_approve, checkpoints
from db.models import Checkpoint
from db.queue import outcomes
from db.session import Database
from pipeline.errors import CrashError, RefusedError
from pipeline.states import JobState, Stage
from pipeline.work import CheckpointRef, Claim
from tests.unit.db.line import Line


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def saved(step: int, total: int = 10) -> CheckpointRef:
    return CheckpointRef(step, total, f"checkpoints/key-{step}", f"{step:064x}", 100 + step, {"device": "cpu"})


def record(line: Line, claimed: Claim, ref: CheckpointRef) -> tuple[str, ...] | None:
    with line.database.transaction() as session:
        return checkpoints.record(session, claimed, ref)


def newest(line: Line, job_id: str) -> CheckpointRef | None:
    with line.database.reading() as session:
        return checkpoints.newest(session, job_id, 1, 0)


def crash(line: Line, claimed: Claim) -> None:
    with line.database.transaction() as session:
        assert outcomes.fail(session, claimed, CrashError("killed")).recorded


def test_a_newer_state_replaces_the_older_and_the_next_attempt_is_handed_it(line: Line) -> None:
    _, job_id, first = line.bring_to(Stage.GENERATE)
    assert first.work.checkpoint is None

    assert record(line, first, saved(3)) == ()
    assert record(line, first, saved(6)) == (saved(3).key,)
    crash(line, first)

    second = line.go_on(job_id, Stage.GENERATE)
    assert second.work.checkpoint == saved(6)
    assert line.events(job_id).count("checkpoint") == 2


def test_the_final_state_replaces_those_before_it(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.GENERATE)
    record(line, claimed, saved(6))

    assert record(line, claimed, saved(10)) == (saved(6).key,)

    found = newest(line, job_id)
    assert found is not None
    assert found.final


def test_the_same_state_again_deletes_nothing(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.GENERATE)
    record(line, claimed, saved(6))

    assert record(line, claimed, saved(6)) == ()
    assert newest(line, job_id) == saved(6)


def test_an_attempt_that_lost_its_step_writes_nothing(line: Line) -> None:
    _, job_id, first = line.bring_to(Stage.GENERATE)
    crash(line, first)
    second = line.go_on(job_id, Stage.GENERATE)
    record(line, second, saved(2))

    assert record(line, first, saved(9)) is None
    with line.database.transaction() as session:
        assert checkpoints.discard(session, first, "a zombie's opinion") == ()

    assert newest(line, job_id) == saved(2)
    assert "checkpoint_unusable" not in line.events(job_id)


def test_a_job_that_is_to_be_cancelled_keeps_no_new_state(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.GENERATE)
    with line.database.transaction() as session:
        assert cancel_retry_approve.cancel(session, job_id)

    assert record(line, claimed, saved(3)) is None
    assert newest(line, job_id) is None


def test_what_cannot_be_used_is_forgotten_and_said(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.GENERATE)
    record(line, claimed, saved(3))

    with line.database.transaction() as session:
        assert checkpoints.discard(session, claimed, "numerics differ") == (saved(3).key,)

    assert newest(line, job_id) is None
    assert "checkpoint_unusable" in line.events(job_id)


def test_a_published_job_keeps_none_and_says_which_objects_are_free(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.GENERATE)
    record(line, claimed, saved(10))
    line.finish(claimed)

    published = line.finish(line.go_on(job_id, Stage.PUBLISH))

    assert published.unneeded == (saved(10).key,)
    assert newest(line, job_id) is None


def test_a_cancelled_job_keeps_none(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.GENERATE)
    record(line, claimed, saved(3))
    with line.database.transaction() as session:
        assert cancel_retry_approve.cancel(session, job_id)

    with line.database.transaction() as session:
        released = outcomes.release(session, claimed)

    assert released.unneeded == (saved(3).key,)
    assert newest(line, job_id) is None


def test_a_job_that_waits_and_is_cancelled_keeps_none(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.GENERATE)
    record(line, claimed, saved(3))
    crash(line, claimed)

    with line.database.transaction() as session:
        assert cancel_retry_approve.cancel(session, job_id)

    assert line.job(job_id).state is JobState.CANCELLED
    assert newest(line, job_id) is None


def test_a_failed_job_keeps_its_state_for_a_retry(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.GENERATE)
    record(line, claimed, saved(3))
    with line.database.transaction() as session:
        assert outcomes.fail(session, claimed, RefusedError("no")).unneeded == ()
    assert line.job(job_id).state is JobState.FAILED

    with line.database.transaction() as session:
        assert cancel_retry_approve.retry(session, job_id)

    assert line.go_on(job_id, Stage.GENERATE).work.checkpoint == saved(3)


def test_the_database_refuses_a_step_beyond_the_last(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.GENERATE)
    with pytest.raises(Exception, match="checkpoints_step"):
        record(line, claimed, saved(11))
    with line.database.reading() as session:
        assert session.get(Checkpoint, (job_id, 1, 0, False)) is None
