"""A GPU for a session: who gets which, what it takes meanwhile, when it ends, and what its idle time costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select, update

from db import events, invariants, workers
from db.clips.spending import usage
from db.models import Batch, Reservation, StageRun, Worker
from db.queue import leases, outcomes, recovery
from db.scheduling import placement
from db.session import Database, now_ms
from db.sessions import rows
from pipeline.errors import ServiceUnavailableError
from pipeline.policy.routes import preset_queue, session_queue
from pipeline.presets import all_presets
from pipeline.settings import load_settings
from pipeline.states import Stage, StepState
from service import sessions
from tasks.upkeep import dispatcher
from tasks.upkeep.dispatcher import Dispatcher
from tests.moves import watched
from tests.unit.db.line import GPU, QUEUES
from tests.unit.db.session_line import SessionLine


@pytest.fixture
def line(database: Database) -> Iterator[SessionLine]:
    made = SessionLine(database, load_settings(stream={"gpu_share": 0.5}))
    with watched(database):
        made.submit(count=1, owner="carol")
        yield made
    assert invariants.violations(database) == []


def kinds(line: SessionLine, batch_id: str) -> list[str]:
    return [kind for kind, _ in line.batch_events(batch_id)]


def reservations(line: SessionLine, session_id: str) -> list[Reservation]:
    with line.database.reading() as session:
        query = select(Reservation).where(Reservation.session_id == session_id).order_by(Reservation.id)
        return list(session.scalars(query))


def kill(line: SessionLine, worker: str) -> None:
    """A worker's host is gone, and that was noticed."""
    with line.database.transaction() as session:
        session.execute(update(Worker).where(Worker.name == worker).values(seen_at=1))


def pass_time(line: SessionLine, session_id: str, ms: int) -> None:
    """Let the reservation be so much older."""
    earlier = {name: getattr(Reservation, name) - ms for name in ("created_at", "ready_at", "counted_to")}
    with line.database.transaction() as session:
        session.execute(update(Reservation).where(Reservation.session_id == session_id).values(earlier))


def test_binding_gives_back_what_runs_there_and_the_worker_takes_the_sessions_segments_only(line: SessionLine) -> None:
    # Given the one GPU in the middle of a stranger's clip, and another that was sent to it
    line.worker()
    batch_id = line.submit(count=1)
    others = (f"{batch_id}-000000",)
    running = line.take_job(others[0], Stage.GENERATE, QUEUES)
    sent = line.submit(count=1, again=True)
    line.admit()

    # When a session gets that GPU
    opened = line.open()
    assert line.view(opened.id).queue_position == 0
    line.reserve()

    # Then what runs is told to stop and keep what it has, and what was sent waits for another GPU
    assert (line.view(opened.id).state, line.view(opened.id).gpu_ready) == ("gpu_binding", False)
    with line.database.transaction() as session:
        assert leases.check_control(session, running).pause
        assert leases.renew(session, running, lease_ms=1000).pause
    assert line.states(f"{sent}-000000").get(Stage.GENERATE) is not StepState.DISPATCHED
    with line.database.transaction() as session:
        outcomes.release(session, running)
    line.admit()
    shown = line.view(opened.id)
    assert (shown.state, shown.gpu, shown.gpu_ready, shown.queue_position) == ("active", "w1", True, None)
    assert line.states(others[0])[Stage.GENERATE] is StepState.WAITING

    # And it may claim nothing else, whatever messages it gets, until the session ends
    with line.database.transaction() as session:
        session.execute(update(Worker).values(failed_presets=None))
    assert line.admit() == []
    line.ask(opened.id, 0)
    claimed = line.take(opened.id, 0, Stage.GENERATE)
    assert claimed.queue == session_queue("cpu", opened.id)
    with line.database.transaction() as session:
        assert not leases.check_control(session, claimed).pause
    line.finish(claimed, line.made(claimed))
    sessions.close_session(line.database, opened.id)
    line.admit()
    assert line.view(opened.id).gpu is None
    assert line.states(others[0])[Stage.GENERATE] is StepState.DISPATCHED
    assert kinds(line, opened.batch_id)[:3] == ["session_opened", "session_bound", "session_ready"]
    assert "session_unbound" in kinds(line, opened.batch_id)


def test_a_claim_by_a_reserved_worker_of_what_was_dispatched_to_its_old_queue_finds_nothing(line: SessionLine) -> None:
    line.worker()
    line.worker(name="w2")
    opened = line.open()
    line.admit()
    worker = line.view(opened.id).gpu
    other = {"w1": "w2", "w2": "w1"}[worker or ""]
    batch_id = line.submit(count=1)
    job_id = f"{batch_id}-000000"
    line.admit()
    line.finish(line.claim(job_id, Stage.SCREEN))
    line.admit()
    assert line.step(job_id, Stage.GENERATE).queue == GPU

    with line.database.transaction() as session:
        where = {"job_id": job_id, "segment": 0, "stage": Stage.GENERATE, "queues": (GPU,), "lease_ms": 1000}
        assert leases.claim(session, worker=worker or "", **where) is None
        assert leases.claim(session, worker=other, **where) is not None


def test_sessions_get_their_share_of_the_gpus_in_turn(line: SessionLine) -> None:
    for number in range(1, 4):
        line.worker(name=f"w{number}")
    opened = [line.open(owner=f"owner {number}") for number in range(4)]
    line.admit()

    # A half of three, rounded up, is two
    shown = [line.view(each.id) for each in opened]
    assert [each.gpu is not None for each in shown] == [True, True, False, False]
    assert len({each.gpu for each in shown[:2]}) == 2
    assert [(each.queue_position, each.queue_depth) for each in shown[2:]] == [(0, 2), (1, 2)]
    # Others' clips go to the third, and models are placed there only
    batch_id = line.submit(count=1)
    line.admit()
    line.finish(line.claim(f"{batch_id}-000000", Stage.SCREEN))
    line.admit()
    assert line.step(f"{batch_id}-000000", Stage.GENERATE).queue == GPU
    with line.database.transaction() as session:
        assert placement.planned(session, all_presets(), affinity_s=0) == {}

    # When one ends, the next gets its GPU
    sessions.close_session(line.database, opened[0].id)
    line.admit()
    assert line.view(opened[2].id).gpu == shown[0].gpu
    assert line.view(opened[3].id).queue_position == 0


def test_a_session_gets_the_gpu_that_is_ready_soonest(line: SessionLine) -> None:
    line.worker(preset_queue("cpu", "tiny-wan"), name="a")
    line.worker(name="b")
    line.worker(name="c")
    line.worker(preset_queue("h200", "idle"), name="d")
    busy = line.submit(count=1, again=True)
    line.take_job(f"{busy}-000000", Stage.GENERATE, QUEUES)  # by w1, which is none of them
    with line.database.transaction() as session:
        session.execute(update(Worker).where(Worker.name == "w1").values(seen_at=1))

    opened = line.open(gpu=("cpu",))
    line.admit()
    assert line.view(opened.id).gpu == "b"
    other = line.open(preset="tiny-wan", gpu=("cpu",))
    line.admit()
    assert line.view(other.id).gpu == "a"


def test_a_session_whose_worker_is_gone_goes_on_on_another(line: SessionLine) -> None:
    # Given a session in the middle of its second segment
    line.worker()
    line.worker(name="w2")
    opened = line.open()
    for number in (0, 1):
        line.ask(opened.id, number)
    line.make(opened.id, 0)
    claimed = line.take(opened.id, 1, Stage.GENERATE)
    lost = line.view(opened.id).gpu or ""

    # When the worker dies
    kill(line, lost)
    line.expire(claimed.work.job_id)
    with line.database.transaction() as session:
        recovery.end_leases(session)
    line.admit()

    # Then the other one is reserved, and makes that segment anew; the session was active all the time
    shown = line.view(opened.id)
    assert (shown.state, shown.gpu) == ("active", {"w1": "w2", "w2": "w1"}[lost])
    again = line.take(opened.id, 1, Stage.GENERATE)
    assert (again.attempt, again.worker) == (2, shown.gpu)
    assert [item.end_reason for item in reservations(line, opened.id)] == ["worker_lost", None]
    # What the dead one still does is fenced
    assert not line.finish(claimed, line.made(claimed)).recorded
    line.finish(again, line.made(again))


def test_a_segment_has_the_gpu_type_of_whoever_has_it_in_hand(line: SessionLine) -> None:
    line.worker()
    opened = line.open()
    line.ask(opened.id, 0)
    assert line.view(opened.id).segments[0].gpu_type is None
    claimed = line.take(opened.id, 0, Stage.GENERATE)
    assert line.view(opened.id).segments[0].gpu_type == "cpu"

    # When its worker dies, and one of another type takes the session over
    line.worker(preset_queue("h200", "idle"), name="w2")
    kill(line, "w1")
    line.expire(claimed.work.job_id)
    with line.database.transaction() as session:
        recovery.end_leases(session)
    line.admit()
    assert line.view(opened.id).gpu_type == "h200"
    line.take(opened.id, 0, Stage.GENERATE)

    assert line.view(opened.id).segments[0].gpu_type == "h200"


@pytest.mark.parametrize(("lease_s", "silent_s", "lost"), [(30, 20, False), (3, 20, True), (3, 12, False)])
def test_a_worker_that_is_silent_for_a_lease_and_three_reports_is_lost_to_its_session(
    line: SessionLine, lease_s: int, silent_s: int, lost: bool
) -> None:
    line.worker()
    line.worker(name="w2")
    opened = line.open()
    line.admit()
    worker = line.view(opened.id).gpu or ""

    be_silent(line, worker, silent_s)
    Dispatcher(None, line.database, load_settings(worker={"lease_s": lease_s})).poll()  # type: ignore[arg-type]

    assert (line.view(opened.id).gpu != worker) is lost


def test_no_worker_is_lost_to_its_session_because_the_database_was_away(
    line: SessionLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.worker()
    line.worker(name="w2")
    opened = line.open()
    line.admit()
    worker = line.view(opened.id).gpu or ""
    at_work = Dispatcher(None, line.database, load_settings())  # type: ignore[arg-type]
    with monkeypatch.context() as away:
        away.setattr(dispatcher, "reserve_gpus", refuse)
        with pytest.raises(ServiceUnavailableError):
            at_work.poll()

    # When it is back, then workers may report before they are judged
    be_silent(line, worker, 100)
    at_work.poll()
    assert line.view(opened.id).gpu == worker
    be_silent(line, worker, 0)
    Dispatcher(None, line.database, load_settings()).poll()  # type: ignore[arg-type]
    assert line.view(opened.id).gpu == worker


def refuse(*arguments: Any, **options: Any) -> None:
    raise ServiceUnavailableError("the database is away")


def be_silent(line: SessionLine, worker: str, seconds: float) -> None:
    """The worker's last report is so old."""
    with line.database.transaction() as session:
        seen_at = now_ms() - int(seconds * 1000)
        session.execute(update(Worker).where(Worker.name == worker).values(seen_at=seen_at))


def test_a_session_that_was_not_ready_yet_waits_again_when_its_worker_drains(line: SessionLine) -> None:
    line.worker(preset_queue("cpu", "tiny-wan"))
    opened = line.open()
    line.admit()
    assert line.view(opened.id).state == "gpu_binding"  # its model is to be loaded

    with line.database.transaction() as session:
        session.execute(update(Worker).values(draining=True))
    line.admit()

    shown = line.view(opened.id)
    assert (shown.state, shown.gpu, shown.queue_position) == ("queued", None, 0)


def test_idle_reserved_time_is_charged_and_ends_a_session_whose_budget_it_uses_up(line: SessionLine) -> None:
    # Given a session with a budget, which had a GPU for 40 s before its first segment
    line.settings = load_settings(prices={"cpu": 3.6})
    line.worker()
    opened = line.open(max_gpu_s=100)
    line.admit()
    pass_time(line, opened.id, 40_000)
    line.ask(opened.id, 0)
    line.reserve()
    line.make(opened.id, 0)

    # When 30 s go by after a segment that took 20 of them
    with line.database.transaction() as session:
        run = session.scalars(select(StageRun).where(StageRun.stage == Stage.GENERATE)).one()
        run.started_at = run.ended_at - 20_000
        session.execute(update(Batch).where(Batch.id == opened.batch_id).values(gpu_ms=Batch.gpu_ms + 20_000))
    pass_time(line, opened.id, 30_000)
    line.reserve()

    # Then 40 s and 10 s were idle, and the whole is charged once
    (item,) = reservations(line, opened.id)
    assert item.idle_ms == pytest.approx(50_000, abs=3_000)
    batch = line.batch(opened.batch_id)
    assert batch.gpu_ms == pytest.approx(70_000, abs=3_000)
    with line.database.reading() as session:
        used = usage(session, opened.batch_id, {"cpu": 3.6})
    assert used.gpu_ms == pytest.approx(batch.gpu_ms, abs=1_000)
    assert used.cost == pytest.approx(3.6 * used.gpu_ms / 3_600_000)

    # And once the budget is used up, the session ends and its GPU goes to others
    pass_time(line, opened.id, 70_000)
    line.reserve()
    assert line.batch(opened.batch_id).over_budget
    line.poll()
    line.reserve()
    shown = line.view(opened.id)
    assert (shown.state, shown.end_reason, shown.gpu) == ("error", "budget_reached", None)


def test_a_reservation_ends_with_a_session_of_which_nothing_is_heard(line: SessionLine) -> None:
    line.worker()
    opened = line.open(timeout_s=30)
    line.admit()
    line.silence(opened.id, 31)
    line.poll()
    line.reserve()

    assert line.view(opened.id).gpu is None
    assert [item.end_reason for item in reservations(line, opened.id)] == ["session_ended"]
    with line.database.reading() as session:
        (unbound,) = [event for event in events.of_batch(session, opened.batch_id) if event.kind == "session_unbound"]
        assert unbound.data["why"] == "session_ended"
        assert [row.name for row in workers.alive(session)] == ["w1"]


def test_sessions_wait_for_a_gpu_of_their_own(line: SessionLine) -> None:
    # Given two GPUs, one of which sessions may have, and two sessions with a segment each
    line.worker()
    line.worker(name="w2")
    first, second = line.open(), line.open(owner="bob")
    for each in (first, second):
        line.ask(each.id, 0)
    line.make(second.id, 0, Stage.SCREEN)
    line.admit()

    # Then the second waits although a GPU is free for others
    assert line.view(second.id).queue_position == 0
    assert line.states(f"{second.batch_id}-000000")[Stage.GENERATE] is StepState.WAITING
    with line.database.transaction() as session:
        assert placement.planned(session, all_presets(), affinity_s=0) == {}


@pytest.mark.parametrize("gpus", [1, 2])
def test_a_gpu_whose_session_somebody_has_in_hand_is_not_free(postgres_database: Database, gpus: int) -> None:
    # Given a session with a GPU, of which the sessions may have no other, and one that waits
    line = SessionLine(postgres_database, load_settings(stream={"gpu_share": 0.5}))
    for number in range(gpus):
        line.worker(name=f"w{number + 1}")
    first = line.open()
    line.reserve()
    gpu = line.view(first.id).gpu
    second = line.open()

    # When GPUs are reserved while a request of the first one's client is under way
    with line.database.transaction() as session:
        rows.lock(session, first.id)
        line.reserve()

    # Then it has its GPU, and the other waits on
    assert gpu is not None
    assert (line.view(first.id).gpu, line.view(second.id).gpu) == (gpu, None)
    sessions.close_session(line.database, first.id)
    line.admit()
    assert line.view(second.id).gpu is not None
