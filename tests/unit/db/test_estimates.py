"""What no live worker can run, when a batch will be done, and what is said of both."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import update

from db.clips import batches, cancel_retry_approve
from db.clips.batches import Limits
from db.models import Event, StageRun
from db.queue import pauses
from db.reading import alerts, estimates, remaining
from db.reading.alerts import Alert, Topic
from db.reading.estimates import Estimate, Stuck
from db.reading.remaining import RemainingWork
from db.session import Database
from pipeline.policy.routes import ALL_QUEUES, CPU_QUEUE, IO_QUEUE, gpu_queue
from pipeline.presets import Preset, get_preset
from pipeline.states import Stage
from pipeline.work import ContinuationRef, StageResult
from tasks.upkeep.alerts import Alerts
from tests.outputs import generated
from tests.unit.db.line import GPU, Line

GIB = 1024**3


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def _stuck(line: Line, batch_id: str, presets: dict[str, Preset] | None = None) -> list[Stuck]:
    with line.database.reading() as session:
        return estimates.stuck(session, batches.get(session, batch_id), presets)


def _completion(line: Line, batch_id: str) -> Estimate:
    with line.database.reading() as session:
        return estimates.completion(session, batches.get(session, batch_id))


def _generated(line: Line, seconds: float) -> None:
    """One clip of a batch of its own was generated on the CPU in so many seconds, and nothing of it is left."""
    _, job_id, claimed = line.bring_to(Stage.GENERATE)
    line.finish(claimed)
    with line.database.transaction() as session:
        session.execute(
            update(StageRun)
            .where(StageRun.job_id == job_id, StageRun.stage == Stage.GENERATE)
            .values(started_at=StageRun.ended_at - int(seconds * 1000))
        )
    line.finish_job(job_id)


def test_a_type_that_nobody_has_is_named_with_the_jobs_that_wait_for_it(line: Line) -> None:
    line.worker()
    batch_id = line.submit(
        {"prompt": "a", "gpu": "h200"}, {"prompt": "b", "gpu": "h200"}, {"prompt": "c"}, {"prompt": "d", "gpu": "cpu"}
    )

    assert _stuck(line, batch_id) == [
        Stuck(2, Stage.GENERATE, ("h200",), "2 jobs wait for a GPU type that no live worker has: h200")
    ]
    line.worker(gpu_queue("h200"), name="w2")
    assert _stuck(line, batch_id) == []


def test_jobs_that_have_ended_wait_for_nothing(line: Line) -> None:
    line.worker()
    batch_id = line.submit({"prompt": "a", "gpu": "h200"}, {"prompt": "b"})
    with line.database.transaction() as session:
        cancel_retry_approve.cancel(session, f"{batch_id}-000000")

    assert _stuck(line, batch_id) == []


def test_a_paused_or_draining_worker(line: Line) -> None:
    """A pause takes no capacity away for ever; a worker that drains does."""
    line.worker(IO_QUEUE, CPU_QUEUE, name="w0")
    line.worker(GPU, name="w1")
    batch_id = line.submit(count=1)
    with line.database.transaction() as session:
        pauses.pause_queue(session, GPU, by="ada")
    assert _stuck(line, batch_id) == []

    line.worker(GPU, name="w1", draining=True)
    assert [item.reason for item in _stuck(line, batch_id)] == ["1 job waits for a GPU worker: none is alive"]


def test_too_little_memory_is_said_with_both_sizes(line: Line) -> None:
    line.worker(memory=8 * GIB)
    batch_id = line.submit(count=2)
    large = get_preset("idle").model_copy(update={"memory_gib": 24.0})

    assert [item.reason for item in _stuck(line, batch_id, {"idle": large})] == [
        "2 jobs wait for 24 GiB of GPU memory, which preset idle needs: the live workers of cpu have at most 8.0 GiB"
    ]


def test_stages_without_a_worker_are_said_too(line: Line) -> None:
    line.worker(GPU)
    batch_id = line.submit({"prompt": "a"}, {"prompt": "b", "enhance": True})

    assert {(item.stage, item.jobs) for item in _stuck(line, batch_id)} == {(Stage.SCREEN, 1), (Stage.ENHANCE, 1)}
    line.admit()
    assert {(item.stage, item.jobs) for item in _stuck(line, batch_id)} == {(Stage.SCREEN, 1), (Stage.ENHANCE, 1)}


def test_a_limit_on_cost_needs_a_type_with_a_price(line: Line) -> None:
    line.worker()
    batch_id = line.submit(count=1, limits=Limits(max_cost=1.0, prices={"h200": 3.0}))

    assert [item.reason for item in _stuck(line, batch_id)] == [
        "1 job waits for a GPU type that has a price (VGEN_PRICES), since the batch has a limit on cost: not cpu"
    ]


def test_without_the_note_of_the_submission_the_jobs_are_read(line: Line) -> None:
    line.worker()
    batch_id = line.submit({"prompt": "a", "gpu": "h200"}, {"prompt": "b"})
    with line.database.transaction() as session:
        session.execute(update(Event).values(data={"total": 2}))

    assert [item.jobs for item in _stuck(line, batch_id)] == [1]


def test_nothing_is_estimated_before_anything_was_generated(line: Line) -> None:
    batch_id = line.submit(count=4)
    assert _completion(line, batch_id) == Estimate(None, "no live worker can generate it now")
    line.worker()
    assert _completion(line, batch_id) == Estimate(None, "nothing was generated on these GPU types yet")


def test_the_estimate_counts_slots_jobs_and_other_batches(line: Line) -> None:
    _generated(line, 30.0)
    line.worker(slots=3)
    batch_id = line.submit(count=9, again=True)
    assert _completion(line, batch_id).seconds == pytest.approx(90, abs=1)

    line.submit(count=3, again=True)
    assert _completion(line, batch_id).seconds == pytest.approx(120, abs=1)
    line.submit(count=100, again=True)
    assert _completion(line, batch_id).seconds == pytest.approx(210, abs=1), "it shares: no more than its own number"


def test_one_clip_takes_as_long_as_a_clip_however_many_slots_there_are(line: Line) -> None:
    _generated(line, 30.0)
    line.worker(slots=8)

    assert _completion(line, line.submit(count=1, again=True)).seconds == pytest.approx(30, abs=1)


def test_segments_are_counted_and_those_of_a_clip_follow_each_other(line: Line) -> None:
    _generated(line, 30.0)
    line.worker(slots=4)
    batch_id = line.submit({"prompt": "a", "segments": 10}, {"prompt": "b", "segments": 2}, {"prompt": "c"}, again=True)
    assert _left(line, batch_id) == RemainingWork(13, 10)
    assert _completion(line, batch_id).seconds == pytest.approx(300, abs=3), "ten, one after the other"
    line.worker(slots=1)
    assert _completion(line, batch_id).seconds == pytest.approx(13 * 30, abs=3)

    line.submit({"prompt": "d", "segments": 4}, again=True)
    assert _completion(line, batch_id).seconds == pytest.approx((13 + 4) * 30, abs=4), "and so are other batches"

    # When a segment of the longest clip was generated, then it is not counted any more
    claimed = line.go_on(f"{batch_id}-000000", Stage.GENERATE)
    line.finish(claimed, StageResult(generated(num_frames=4), continuation=ContinuationRef("last_frames", 1, {}, {})))
    assert _left(line, batch_id) == RemainingWork(12, 9)
    with line.database.transaction() as session:
        session.execute(update(Event).values(kind="other", data={}))  # the beginning of its history is gone
    assert _left(line, batch_id) == RemainingWork(12, 9)


def _left(line: Line, batch_id: str) -> RemainingWork:
    with line.database.reading() as session:
        return remaining.of_batches(session, [batch_id])[batch_id]


def test_a_stopped_batch_has_no_estimate_but_a_reason(line: Line) -> None:
    batch_id = line.submit(count=1)
    with line.database.transaction() as session:
        pauses.pause_batch(session, batch_id, by="ada")
    assert _completion(line, batch_id).reason == "the batch is paused"
    with line.database.transaction() as session:
        pauses.pause_queue(session, ALL_QUEUES, by="ada")
    assert _completion(line, batch_id).reason == "everything is paused"


def test_a_stopped_batch_rests_once_nothing_of_it_runs(line: Line) -> None:
    batch_id, _, claimed = line.bring_to(Stage.GENERATE)

    def rests() -> bool:
        with line.database.reading() as session:
            return estimates.rests(session, batches.get(session, batch_id))

    assert not rests()
    with line.database.transaction() as session:
        pauses.pause_batch(session, batch_id, by="ada")
    assert not rests(), "it still runs"
    line.finish(claimed)
    assert rests()


def test_a_batch_over_its_budget_rests_only_when_its_other_stages_are_done(line: Line) -> None:
    line.worker()
    batch_id = line.submit(count=2, limits=Limits(max_gpu_ms=1), again=True)
    ids = [f"{batch_id}-{number:06d}" for number in range(2)]
    line.finish(line.go_on(ids[0], Stage.GENERATE))

    def rests() -> bool:
        with line.database.reading() as session:
            return estimates.rests(session, batches.get(session, batch_id))

    assert not rests(), "encode and publish are to come"
    line.change(ids[1], not_before=0)
    line.finish_job(ids[0])
    if (screen := line.step(ids[1], Stage.SCREEN)).state.value != "done":
        line.admit()
        line.finish(line.claim(ids[1], screen.stage))
    assert rests()


@pytest.mark.parametrize(
    ("seconds", "expected"), [(None, None), (10.0, False), (90.0, False), (95.0, None), (101.0, True)]
)
def test_a_deadline_is_at_risk_when_the_estimate_says_so(seconds: float | None, expected: bool | None) -> None:
    assert alerts.at_risk(1_100_000, 1_000_000, seconds) is expected


def test_a_deadline_that_has_passed_was_missed_whatever_the_estimate() -> None:
    assert alerts.at_risk(1_000, 1_000, None) is True


def test_an_alert_is_said_once_however_many_say_it_and_once_when_it_is_over(line: Line) -> None:
    batch_id = line.submit(count=1)

    def say(on: bool | None) -> bool:
        with line.database.transaction() as session:
            return alerts.record(session, Alert(batch_id, Topic.DEADLINE, on))

    assert [say(on) for on in (False, True, True, None, False, False, True)] == [
        False,
        True,
        False,
        False,
        True,
        False,
        True,
    ]
    kinds = [kind for kind, _ in line.batch_events(batch_id)]
    assert kinds == ["submitted", "deadline_at_risk", "deadline_on_track", "deadline_at_risk"]


def test_the_timer_waits_for_a_worker_that_starts_anew_before_it_says_stuck(line: Line) -> None:
    batch_id = line.submit({"prompt": "a", "gpu": "h200"}, limits=Limits(deadline_at=1))
    line.worker()
    first, second = (Alerts(line.database, Path("/nonexistent")) for _ in range(2))

    first.poll()
    assert [kind for kind, _ in line.batch_events(batch_id)] == ["submitted", "deadline_at_risk"]
    for _ in range(3):
        first.poll()
        second.poll()
    assert [kind for kind, _ in line.batch_events(batch_id)] == ["submitted", "deadline_at_risk", "stuck"]

    line.worker(gpu_queue("h200"), name="w2")
    first.poll()
    second.poll()
    assert [kind for kind, _ in line.batch_events(batch_id)][3:] == ["unstuck"]
