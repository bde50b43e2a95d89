"""Budgets: what is counted, what is still dispatched, what happens when they are used up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from db.clips import spending
from db.clips.batches import Limits
from db.models import StageRun, Step
from db.queue import outcomes, recovery
from db.reading import estimates
from db.scheduling import budgets
from db.session import Database, now_ms
from pipeline.errors import CrashError, RefusedError
from pipeline.policy.routes import gpu_queue
from pipeline.states import Stage, StepState
from pipeline.work import Claim
from tests.unit.db.line import GPU, QUEUES, Line
from tests.unit.db.test_dispatch import _ready_to_generate

PRICES = {"cpu": 7.2}
"""Per hour: 0.002 a second."""
HOUR_MS = 3_600_000


@pytest.fixture
def line(database: Database) -> Line:
    line = Line(database)
    line.worker()
    return line


def _limited(line: Line, *lines: dict[str, Any], count: int = 0, **limits: Any) -> tuple[str, list[str]]:
    """A batch with a budget whose jobs wait to be generated."""
    batch_id = line.submit(*lines, count=count, again=True, limits=Limits(prices=PRICES, **limits))
    for item in line.admit(window=1_000):
        line.finish(line.claim(item.job_id, item.stage))
    return batch_id, [f"{batch_id}-{number:06d}" for number in range(len(lines) + count)]


def _run(line: Line, job_id: str, seconds: float) -> Claim:
    """Claim the job's generate step, as if that was so long ago."""
    claimed = line.claim(job_id, Stage.GENERATE)
    with line.database.transaction() as session:
        session.execute(
            update(Step).where(Step.id == claimed.step_id).values(started_at=now_ms() - int(seconds * 1000))
        )
    return claimed


def _history(line: Line, seconds: float) -> None:
    """One clip was generated on the CPU in so many seconds."""
    _, job_id, claimed = line.bring_to(Stage.GENERATE)
    line.finish(claimed)
    with line.database.transaction() as session:
        session.execute(
            update(StageRun)
            .where(StageRun.job_id == job_id, StageRun.stage == Stage.GENERATE)
            .values(started_at=StageRun.ended_at - int(seconds * 1000))
        )
        session.execute(
            update(Step).where(Step.job_id == job_id, Step.state == StepState.WAITING).values(not_before=2**60)
        )


def _used(line: Line, batch_id: str) -> tuple[float, float]:
    batch = line.batch(batch_id)
    return batch.gpu_ms / 1000, batch.cost


def test_every_ended_attempt_at_generating_is_counted_whatever_came_of_it(line: Line) -> None:
    batch_id, ids = _limited(line, count=5, max_gpu_ms=HOUR_MS, max_cost=100.0)
    line.worker(*QUEUES, slots=5)
    line.admit()
    taken = [_run(line, job_id, 10.0) for job_id in ids]
    line.finish(taken[0])
    with line.database.transaction() as session:
        outcomes.fail(session, taken[1], CrashError("died"))
    with line.database.transaction() as session:
        outcomes.fail(session, taken[2], RefusedError("no"))
    with line.database.transaction() as session:
        outcomes.release(session, taken[3])
    line.expire(ids[4])
    with line.database.transaction() as session:
        recovery.end_leases(session)

    seconds, cost = _used(line, batch_id)

    assert seconds == pytest.approx(50.0, abs=5.0)
    assert cost == pytest.approx(seconds * 0.002, abs=0.001)
    assert not line.batch(batch_id).over_budget


def test_what_a_clip_takes_beside_the_next_one_is_not_the_gpus(line: Line) -> None:
    batch_id, (job_id,) = _limited(line, count=1, max_gpu_ms=HOUR_MS)
    line.admit()
    claimed = _run(line, job_id, 1000.0)

    line.finish(replace(claimed, overlapped_ms=400_000))

    assert _used(line, batch_id)[0] == pytest.approx(600.0, abs=60.0)
    with line.database.reading() as session:
        assert spending.usage(session, batch_id, {}).gpu_ms == pytest.approx(600_000, abs=60_000)


def test_a_fenced_attempt_is_not_counted_twice(line: Line) -> None:
    batch_id, (job_id,) = _limited(line, count=1, max_gpu_ms=HOUR_MS)
    line.admit()
    claimed = _run(line, job_id, 10.0)
    line.expire(job_id)
    with line.database.transaction() as session:
        recovery.end_leases(session)
    before = _used(line, batch_id)

    assert not line.finish(claimed).recorded
    assert _used(line, batch_id) == before


def test_a_batch_without_a_budget_is_not_charged(line: Line) -> None:
    batch_id, _, claimed = line.bring_to(Stage.GENERATE)
    line.finish(claimed)

    assert _used(line, batch_id) == (0.0, 0.0)
    assert line.batch(batch_id).prices is None
    with line.database.reading() as session:
        assert spending.usage(session, batch_id, {}).cost is None
        assert spending.usage(session, batch_id, PRICES).cost is not None


@pytest.mark.parametrize("limits", [{"max_gpu_ms": 15_000}, {"max_cost": 0.03}])
def test_a_used_up_budget_stops_the_gpu_and_nothing_else(line: Line, limits: dict[str, Any]) -> None:
    batch_id, ids = _limited(line, count=4, **limits)
    assert [item.job_id for item in line.admit()] == ids[:2]
    first, second = (_run(line, job_id, 20.0) for job_id in ids[:2])

    line.finish(first)

    assert line.batch(batch_id).over_budget
    assert [kind for kind, _ in line.batch_events(batch_id)].count("budget_reached") == 1
    assert line.admit() == []
    line.finish(second)
    assert line.admit() == []
    assert [line.states(job_id)[Stage.ENCODE] for job_id in ids[:2]] == [StepState.DISPATCHED] * 2
    assert [kind for kind, _ in line.batch_events(batch_id)].count("budget_reached") == 1
    assert line.states(ids[2])[Stage.GENERATE] is StepState.WAITING
    line.check_sums()


def test_what_is_in_flight_counts_by_estimate(line: Line) -> None:
    _history(line, 20.0)
    line.worker(*QUEUES, slots=8)
    _, ids = _limited(line, count=8, max_gpu_ms=50_000)

    # 20 s each: the third is begun with 10 s left, and no fourth.
    assert [item.job_id for item in line.admit()] == ids[:3]
    assert line.admit() == []
    running = _run(line, ids[0], 45.0)
    assert line.admit() == []
    line.finish(running)
    assert all(item.stage is Stage.ENCODE for item in line.admit())


def test_a_batch_over_its_budget_holds_up_no_other(line: Line) -> None:
    _, ids = _limited(line, count=4, max_gpu_ms=1)
    line.admit()
    line.finish(_run(line, ids[0], 1.0))
    line.finish(_run(line, ids[1], 1.0))
    other = _ready_to_generate(line, count=2, owner="bob")

    generated = [item.job_id for item in line.admit() if item.stage is Stage.GENERATE]

    assert generated == [f"{other}-000000", f"{other}-000001"]


def test_with_a_limit_on_cost_only_types_with_a_price_are_used(line: Line) -> None:
    line.worker(gpu_queue("h200"), name="w2", slots=4)
    _limited(line, count=6, max_cost=1.0)

    admitted = line.admit()

    assert {item.queue for item in admitted} == {GPU}
    assert len(admitted) == 2, "the window of one slot"


def test_raising_a_budget_lets_the_batch_go_on(line: Line) -> None:
    batch_id, ids = _limited(line, count=3, max_gpu_ms=1)
    line.admit()
    line.finish(_run(line, ids[0], 5.0))
    line.finish(_run(line, ids[1], 5.0))
    assert not [item for item in line.admit() if item.stage is Stage.GENERATE]

    with line.database.transaction() as session:
        budgets.set_limits(session, batch_id, max_gpu_ms=HOUR_MS, max_cost=None, prices=PRICES, by="ada")

    assert not line.batch(batch_id).over_budget
    assert [item.job_id for item in line.admit() if item.stage is Stage.GENERATE] == [ids[2]]
    assert ("budget_set", "ada") in line.batch_events(batch_id)


def test_a_budget_given_later_counts_what_was_used_before(line: Line) -> None:
    batch_id, job_id, claimed = line.bring_to(Stage.GENERATE)
    line.finish(claimed)
    with line.database.transaction() as session:
        session.execute(
            update(StageRun)
            .where(StageRun.job_id == job_id, StageRun.stage == Stage.GENERATE)
            .values(started_at=StageRun.ended_at - 60_000)
        )

    with line.database.transaction() as session:
        budgets.set_limits(session, batch_id, max_gpu_ms=30_000, max_cost=None, prices=PRICES, by="ada")

    seconds, cost = _used(line, batch_id)
    assert seconds == pytest.approx(60.0, abs=2.0)
    assert cost == pytest.approx(seconds * 0.002, abs=0.001)
    assert line.batch(batch_id).over_budget


def test_a_repeated_submission_keeps_the_limits_of_the_first(line: Line) -> None:
    first = line.submit(count=1, limits=Limits(max_gpu_ms=5))
    again = line.submit(count=1, limits=Limits(max_gpu_ms=9, deadline_at=1))

    assert first == again
    assert (line.batch(first).max_gpu_ms, line.batch(first).deadline_at) == (5, None)


def test_the_earliest_deadline_goes_first_within_a_turn(line: Line) -> None:
    later = line.submit(count=2, again=True, limits=Limits(deadline_at=2_000))
    none = line.submit(count=2, again=True)
    sooner = line.submit(count=2, again=True, limits=Limits(deadline_at=1_000))
    other = line.submit(count=2, again=True, owner="bob", limits=Limits(deadline_at=1_500))

    order = [(item.job_id[:-7], item.job_id[-1]) for item in line.admit()]

    assert order == [
        (sooner, "0"),
        (other, "0"),
        (other, "1"),
        (later, "0"),
        (none, "0"),
        (sooner, "1"),
        (later, "1"),
        (none, "1"),
    ]


def test_what_the_jobs_need_is_noted_at_submit(line: Line) -> None:
    batch_id = line.submit({"prompt": "a", "gpu": "h200"}, {"prompt": "b"}, {"prompt": "c"})
    with line.database.reading() as session:
        assert [(need.gpu, need.jobs) for need in estimates.needs(session, batch_id)] == [((), 2), (("h200",), 1)]
