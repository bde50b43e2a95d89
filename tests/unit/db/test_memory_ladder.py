"""The memory ladder in rows: rung by rung, another GPU type, and what a shape of clips always needs."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from db.models import Event, MemoryNeed, StageRun, Step
from db.queue import outcomes
from db.session import Database, now_ms
from pipeline.acceleration import PLAIN, Acceleration
from pipeline.errors import OutOfMemoryError
from pipeline.policy.memory_ladder import CLIPS_TO_LEARN, REMEMBER_MS, Rung, changes_pixels, next_rung, on_rung
from pipeline.policy.routes import preset_queue
from pipeline.states import JobState, Stage, StepState
from pipeline.work import Claim
from tests.unit.db.line import GPU, QUEUES, Line

LARGE = preset_queue("large", "idle")


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def fail(line: Line, claimed: Claim) -> bool:
    with line.database.transaction() as session:
        return outcomes.fail(session, claimed, OutOfMemoryError("tried to allocate 2 GiB")).recorded


def again(line: Line, job_id: str, queues: tuple[str, ...] = QUEUES) -> Claim:
    line.worker()
    line.admit()
    return line.claim(job_id, Stage.GENERATE, queues=queues)


def said(line: Line, job_id: str) -> list[dict[str, Any]]:
    with line.database.reading() as session:
        rows = session.scalars(select(Event).where(Event.job_id == job_id, Event.kind == "memory_rung"))
        return [row.data for row in rows.all()]


def climb_to(line: Line, rung: Rung) -> tuple[str, Claim]:
    _, job_id, claimed = line.bring_to(Stage.GENERATE)
    while claimed.work.memory_rung < rung:
        assert fail(line, claimed)
        claimed = again(line, job_id)
    return job_id, claimed


def test_rungs_that_change_nothing_are_left_out() -> None:
    assert [next_rung(PLAIN, rung) for rung in Rung] == [Rung.AGAIN, Rung.TILED, Rung.OFFLOADED, None]
    assert next_rung(Acceleration(vae_tiling=True), Rung.AGAIN) is Rung.OFFLOADED
    assert next_rung(Acceleration(vae_tiling=True, offload="model"), Rung.AGAIN) is None
    assert on_rung(PLAIN, Rung.OFFLOADED) == Acceleration(vae_tiling=True, offload="group")
    assert changes_pixels(PLAIN, Rung.AGAIN, Rung.TILED)
    assert not changes_pixels(PLAIN, Rung.TILED, Rung.OFFLOADED)


def test_a_clip_that_does_not_fit_climbs_at_once_and_is_charged_nothing(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.GENERATE)
    rungs = [claimed.work.memory_rung]
    for _ in range(3):
        assert fail(line, claimed)
        claimed = again(line, job_id)
        rungs.append(claimed.work.memory_rung)
    assert rungs == list(Rung)
    events = said(line, job_id)
    assert [event["rung"] for event in events] == ["again", "tiled", "offloaded"]
    assert [event["restarts_from_seed"] for event in events] == [False, True, False]
    assert all(event["gpu"] == "cpu" and "2 GiB" in event["reason"] for event in events)
    with line.database.reading() as session:
        assert session.scalars(select(Step.faults).where(Step.id == claimed.step_id)).one() == 0
        codes = session.scalars(select(StageRun.error_code).where(StageRun.step_id == claimed.step_id)).all()
    assert codes == ["out_of_memory"] * 3


def test_after_the_last_rung_and_the_last_type_the_job_fails(line: Line) -> None:
    job_id, claimed = climb_to(line, Rung.OFFLOADED)
    line.worker(LARGE, name="w2", memory=8)
    assert fail(line, claimed)
    assert said(line, job_id)[-1]["gpus"] == ["large"]
    assert line.states(job_id)[Stage.GENERATE] is StepState.WAITING

    line.worker()
    line.worker(LARGE, name="w2", memory=8)
    line.admit()
    assert line.try_claim(job_id, Stage.GENERATE, queues=(GPU,)) is None, "it goes to the other type only"
    claimed = line.claim(job_id, Stage.GENERATE, queues=(LARGE,))
    assert claimed.work.memory_rung is Rung.PLAIN
    for _ in range(3):
        assert fail(line, claimed)
        line.worker(LARGE, name="w2", memory=8)
        line.admit()
        claimed = line.claim(job_id, Stage.GENERATE, queues=(LARGE,))
    assert fail(line, claimed)
    assert (line.job(job_id).state, line.job(job_id).error_code) == (JobState.FAILED, "out_of_memory")


def test_a_type_that_is_known_to_have_no_more_memory_is_not_tried(line: Line) -> None:
    job_id, claimed = climb_to(line, Rung.OFFLOADED)
    line.worker(memory=8)
    line.worker(LARGE, name="w2", memory=8)
    assert fail(line, claimed)
    assert line.job(job_id).state is JobState.FAILED


def test_what_every_clip_of_a_shape_needed_the_next_gets_from_the_start(line: Line) -> None:
    for _ in range(CLIPS_TO_LEARN):
        _, claimed = climb_to(line, Rung.TILED)
        assert line.finish(claimed).recorded
    _, job_id, claimed = line.bring_to(Stage.GENERATE)
    assert claimed.work.memory_rung is Rung.TILED
    (event,) = said(line, job_id)
    assert event["rung"] == "tiled"
    assert "the last 2 clips of this shape needed it on cpu" in event["reason"]

    line.finish(claimed)
    _, _, smaller = line.bring_to(Stage.GENERATE, width=48, height=32)
    assert smaller.work.memory_rung is Rung.PLAIN, "another shape"
    line.finish(smaller)

    with line.database.transaction() as session:
        session.execute(update(MemoryNeed).values(since=now_ms() - REMEMBER_MS - 1))
    _, _, claimed = line.bring_to(Stage.GENERATE)
    assert claimed.work.memory_rung is Rung.PLAIN, "after a week it is tried plainly again"
    line.finish(claimed)
    with line.database.reading() as session:
        assert session.scalars(select(MemoryNeed)).all() == [], "and that it fitted ends the row"


def test_one_clip_that_needed_a_rung_is_not_every_clip(line: Line) -> None:
    _, claimed = climb_to(line, Rung.TILED)
    line.finish(claimed)
    _, _, claimed = line.bring_to(Stage.GENERATE)
    assert claimed.work.memory_rung is Rung.PLAIN
