"""A deleted clip is a tombstone: its row stays, its files go, and nothing brings it back."""

from __future__ import annotations

from typing import Any

from sqlalchemy import update

from db import events, invariants
from db.clips import cancel_retry_approve, deletion, jobs, retention
from db.models import Job
from db.session import Database
from pipeline.states import JobState, Stage
from tests.unit.db.line import SHA, Line


def worked(database: Database) -> Line:
    line = Line(database)
    line.worker()
    return line


def change(database: Database, job_id: str, **values: Any) -> None:
    with database.transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))


def delete(database: Database, job_id: str) -> bool:
    with database.transaction() as session:
        return deletion.request(session, job_id, by="ada")


def test_a_finished_clip_loses_its_files_and_keeps_its_row(database: Database) -> None:
    line = worked(database)
    job_id = f"{line.submit(count=1)}-000000"
    line.finish_job(job_id)

    assert delete(database, job_id)
    assert delete(database, job_id)

    with database.transaction() as session:
        assert jobs.artifacts(session, [job_id]) == {}
        assert jobs.get(session, job_id).state is JobState.SUCCEEDED
        key = f"media/{job_id}/{SHA}.mp4"
        assert retention.unreferenced(session, [key]) == {key}
        assert [event.kind for event in events.of_job(session, job_id)].count(deletion.DELETED) == 1
    assert invariants.violations(database) == []


def test_a_clip_that_is_being_made_is_stopped_first(database: Database) -> None:
    line = worked(database)
    job_id = f"{line.submit(count=1)}-000000"
    claimed = line.go_on(job_id, Stage.GENERATE)

    assert not delete(database, job_id)
    assert line.job(job_id).deleted_at is None
    line.finish(claimed)

    assert delete(database, job_id)
    assert line.job(job_id).state is JobState.CANCELLED


def test_nothing_brings_it_back(database: Database) -> None:
    line = worked(database)
    job_id = f"{line.submit(count=1)}-000000"
    assert delete(database, job_id)
    assert line.job(job_id).state is JobState.CANCELLED
    with database.transaction() as session:
        assert not cancel_retry_approve.retry(session, job_id)
    assert line.job(job_id).state is JobState.CANCELLED
    assert invariants.violations(database) == []


def test_inputs_are_kept_as_long_as_a_job_names_them_or_its_end_is_not_long_ago(database: Database) -> None:
    line = worked(database)
    batch_id = line.submit(count=2)
    finished, waiting = f"{batch_id}-000000", f"{batch_id}-000001"
    line.finish_job(finished)
    for job_id, digest in ((finished, "b" * 64), (waiting, "c" * 64)):
        image = {"sha256": digest, "media_type": "image/png", "name": "a.png"}
        change(database, job_id, spec={**line.job(job_id).spec, "image": image})
    keys = [f"inputs/{'b' * 64}", f"inputs/{'c' * 64}"]

    def free(age_ms: int | None = None) -> set[str]:
        with database.reading() as session:
            return retention.unreferenced(session, keys, inputs_age_ms=age_ms)

    assert free() == set()
    assert free(60_000) == set()
    change(database, finished, finished_at=Job.finished_at - 120_000)
    assert free(60_000) == {keys[0]}
    assert free() == set()
    assert delete(database, waiting)
    assert free() == {keys[1]}
