"""The database refuses impossible rows, whoever writes them."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from db.session import Database
from tests.unit.db.line import Line

_STEP = "UPDATE steps SET "
_JOB = "UPDATE jobs SET "


@pytest.mark.parametrize(
    "statement",
    [
        _STEP + "state = 'asleep'",
        _STEP + "stage = 'polish'",
        _STEP + "attempt = -1",
        _STEP + "segment = -1",
        _STEP + "state = 'dispatched', queue = NULL",
        _STEP + "state = 'running', queue = 'q', lease_until = NULL",
        _STEP + "lease_until = 5",
        _STEP + "job_id = 'nobody'",
        _JOB + "state = 'asleep'",
        _JOB + "state = 'succeeded'",
        _JOB + "finished_at = 5",
        _JOB + "state = 'failed', finished_at = 5, error_code = NULL",
        _JOB + "roll = 0",
        _JOB + "batch_id = 'nobody'",
        _JOB + "seq = 0",
        "UPDATE batches SET total = 0",
        "DELETE FROM batches",
        "INSERT INTO steps (job_id, batch_id, roll, segment, stage, state, priority, attempt, not_before, errors,"
        " crashes, losses, progress_step, progress_total) SELECT job_id, batch_id, roll, segment, stage, state, 0, 0,"
        " 0, 0, 0, 0, 0, 0 FROM steps",
        "INSERT INTO artifacts (job_id, kind, roll, key, sha256, size, media_type, created_at)"
        " SELECT id, 'video', 1, 'k' || id, 'a', 0, 'video/mp4', 1 FROM jobs",
        "INSERT INTO artifacts (job_id, kind, roll, key, sha256, size, media_type, created_at)"
        " SELECT id, 'video', 1, 'same', 'a', 1, 'video/mp4', 1 FROM jobs",
    ],
)
def test_an_impossible_row_is_refused(database: Database, statement: str) -> None:
    line = Line(database)
    line.submit(count=2)
    before = line.snapshot()

    with pytest.raises(IntegrityError), database.transaction() as session:
        session.execute(text(statement))

    assert line.snapshot() == before
