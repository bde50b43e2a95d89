"""Submissions are stored whole or not at all, and once."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from db.clips import batches
from db.models import Batch, Job, Step
from db.reading import remaining
from db.session import Database
from pipeline.errors import ConflictError, NotFoundError
from pipeline.prompts import PlannedJob, Submission
from pipeline.spec import BatchOptions
from pipeline.states import JobState, Stage
from tests.unit.db.line import Line, submission


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def _submit(line: Line, what: Submission, **options: Any) -> batches.Submitted:
    values = {"name": "n", "owner": "ada", "options": BatchOptions(), **options}
    with line.database.transaction() as session:
        return batches.submit(session, what, **values)


def _rows(line: Line) -> tuple[int, int, int]:
    with line.database.reading() as session:
        return tuple(session.scalars(select(func.count()).select_from(t)).one() for t in (Batch, Job, Step))  # type: ignore[return-value]


def test_every_line_has_a_job_in_order_with_its_first_step(line: Line) -> None:
    stored = _submit(
        line, submission({"prompt": "a", "priority": 5, "custom_id": "x"}, {"prompt": "b", "enhance": True})
    )

    with line.database.reading() as session:
        first, second = batches.job_rows(session, stored.batch_id)
    assert (first.seq, first.line, first.priority, first.custom_id) == (0, 1, 5, "x")
    assert second.spec["prompt"] == "b"
    assert [list(line.states(job.id)) for job in (first, second)] == [[Stage.SCREEN], [Stage.ENHANCE]]
    assert stored.created
    line.check_sums()


def test_the_same_submission_again_adds_nothing(line: Line) -> None:
    first = _submit(line, submission(count=5))
    before = _rows(line)

    second = _submit(line, submission(count=5, name="prompts.jsonl"))

    assert (second.batch_id, second.total, second.created) == (first.batch_id, 5, False)
    assert _rows(line) == before


def test_another_owner_other_settings_or_other_content_make_another_batch(line: Line) -> None:
    made = [
        _submit(line, submission(count=2)),
        _submit(line, submission(count=2), owner="bob"),
        _submit(line, submission(count=2), options=BatchOptions(safety_policy="open")),
        _submit(line, submission(count=3)),
        _submit(line, submission(count=2), again=True),
        _submit(line, submission(count=2), again=True),
    ]

    assert len({item.batch_id for item in made}) == len(made)
    assert all(item.created for item in made)


def test_a_key_stands_for_one_content(line: Line) -> None:
    first = _submit(line, submission(count=2), key="nightly")

    assert _submit(line, submission(count=2), key="nightly").batch_id == first.batch_id
    assert _submit(line, submission(count=2), key="nightly", owner="bob").created
    with pytest.raises(ConflictError, match=f"'nightly'.*{first.batch_id}"):
        _submit(line, submission(count=3), key="nightly")
    with pytest.raises(ConflictError, match="nightly"):
        _submit(line, submission(count=2), key="nightly", options=BatchOptions(safety_policy="open"))
    line.check_sums()


def test_a_submission_that_breaks_half_way_leaves_nothing(line: Line) -> None:
    whole = submission(count=4_000)

    class Breaking:
        def __len__(self) -> int:
            return len(whole.jobs)

        def __iter__(self) -> Any:
            for number, job in enumerate(whole.jobs):
                if number == 3_000:
                    raise OSError("the disk is gone")
                yield PlannedJob(job.line, job.variant, job.spec)

    broken = Submission(Breaking(), whole.fingerprint, whole.inputs, whole.source_name)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="the disk"):
        _submit(line, broken)

    assert _rows(line) == (0, 0, 0)
    assert _submit(line, whole).created


def test_batches_are_found_by_the_start_of_their_id(line: Line) -> None:
    first, second = line.submit(count=1), line.submit(count=2)

    with line.database.reading() as session:
        assert batches.get(session, first).id == first
        assert batches.get(session, "latest").id == second
        assert [batch.id for batch in batches.recent(session)] == [second, first]
        assert batches.recent(session, owner="bob") == []
        for wrong, problem in (("", "does not exist"), ("%", "does not exist"), (first[:1], "not unique")):
            with pytest.raises(NotFoundError, match=problem):
                batches.get(session, wrong)


def test_jobs_are_listed_by_state_and_page(line: Line) -> None:
    batch_id = line.submit(count=5)

    with line.database.reading() as session:
        page = batches.job_rows(session, batch_id, after_seq=1, limit=2)
        assert [job.seq for job in page] == [2, 3]
        assert batches.job_rows(session, batch_id, states=[JobState.FAILED]) == []
        assert remaining.unfinished(session) == [batch_id]
