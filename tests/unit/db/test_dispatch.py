"""Which steps are dispatched: windows, priority, fair shares, the choice of a GPU type."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import pytest
from sqlalchemy import insert, update

from db import workers
from db.models import Batch, Job, Queue, StageRun, Worker
from db.queue import pauses
from db.scheduling import dispatch
from db.session import Database, now_ms
from pipeline.policy.routes import ALL_QUEUES, preset_queue
from pipeline.presets import all_presets
from pipeline.states import JobState, Stage, StepState
from tests.unit.db.line import GPU, Line


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def _ready_to_generate(line: Line, *lines: dict[str, object], count: int = 0, owner: str = "ada") -> str:
    """A batch whose jobs all wait to be generated."""
    batch_id = line.submit(*lines, count=count, owner=owner, again=True)
    for item in line.admit(window=1_000):
        line.finish(line.claim(item.job_id, item.stage))
    return batch_id


def test_a_window_bounds_what_is_in_flight_on_a_queue(line: Line) -> None:
    batch_id = line.submit(count=10)

    assert len(line.admit(window=4)) == 4
    assert line.admit(window=4) == []
    line.claim(f"{batch_id}-000000", Stage.SCREEN)
    assert line.admit(window=4) == []
    line.finish(line.claim(f"{batch_id}-000001", Stage.SCREEN))
    assert [item.job_id for item in line.admit(window=4)] == [f"{batch_id}-000004"]
    line.check_sums()


def test_an_admitted_job_is_in_flight(line: Line) -> None:
    job_id = line.submit(count=1) + "-000000"

    line.admit()

    assert line.job(job_id).state is JobState.IN_FLIGHT
    assert line.states(job_id)[Stage.SCREEN] is StepState.DISPATCHED


def test_higher_priority_goes_first_whatever_the_batch(line: Line) -> None:
    line.submit({"prompt": "a"}, {"prompt": "b", "priority": -5})
    urgent = line.submit({"prompt": "c", "priority": 9}, {"prompt": "d", "priority": 3})

    order = [item.job_id for item in line.admit(window=2)]

    assert order == [f"{urgent}-000000", f"{urgent}-000001"]


def test_batches_and_owners_take_turns(line: Line) -> None:
    large, small = line.submit(count=20), line.submit(count=19)
    other = line.submit(count=18, owner="bob")

    shares = Counter(item.job_id.rsplit("-", 1)[0] for item in line.admit(window=12))

    assert shares == {large: 3, small: 3, other: 6}


def test_nothing_of_a_paused_batch_or_queue_is_admitted(line: Line) -> None:
    batch_id = _ready_to_generate(line, count=1)
    line.worker()

    with line.database.transaction() as session:
        pauses.pause_batch(session, batch_id, by="ada")
    assert line.admit() == []
    with line.database.transaction() as session:
        pauses.resume_batch(session, batch_id, by="ada")
        session.add(Queue(name=GPU, paused=True))
    assert line.admit() == []
    with line.database.transaction() as session:
        session.merge(Queue(name=GPU, paused=False))
        session.add(Queue(name="vgen.cpu", paused=True))
    screened = line.submit(count=3)
    assert [item.stage for item in line.admit()] == [Stage.GENERATE]
    assert line.states(f"{screened}-000000") == {Stage.SCREEN: StepState.WAITING}


def test_a_gpu_line_holds_one_running_and_one_waiting_a_slot(line: Line) -> None:
    _ready_to_generate(line, count=9)
    assert line.admit() == []

    line.worker(GPU, slots=2)

    assert [item.queue for item in line.admit()] == [GPU] * 4
    assert line.admit() == []


def test_workers_that_drain_or_are_gone_have_no_room(line: Line) -> None:
    _ready_to_generate(line, count=1)
    line.worker(GPU, draining=True)
    line.worker(GPU, name="w2")
    with line.database.transaction() as session:
        session.execute(update(Worker).where(Worker.name == "w2").values(seen_at=now_ms() - workers.ALIVE_MS - 1))

    assert line.admit() == []


def test_a_job_goes_to_the_gpu_type_where_it_starts_soonest(line: Line) -> None:
    _ready_to_generate(line, count=6)
    line.worker(preset_queue("small", "idle"), name="w1")
    line.worker(preset_queue("big", "idle"), name="w2", slots=2)

    queues = Counter(item.queue for item in line.admit())

    assert queues == {preset_queue("small", "idle"): 2, preset_queue("big", "idle"): 4}


def test_a_job_keeps_to_the_gpu_types_it_names_and_fits(line: Line) -> None:
    _ready_to_generate(
        line, {"prompt": "a", "gpu": ["big"]}, {"prompt": "b", "preset": "tiny-wan"}, {"prompt": "c", "gpu": ["absent"]}
    )
    for preset in ("idle", "tiny-wan"):
        line.worker(preset_queue("small", preset), name=f"{preset} 1", memory=1024)
        line.worker(preset_queue("big", preset), name=f"{preset} 2", memory=80 * 1024**3)

    assert [item.queue for item in line.admit()] == [preset_queue("big", "idle"), preset_queue("big", "tiny-wan")]


def test_jobs_that_fit_nothing_live_do_not_hold_up_those_behind_them(line: Line) -> None:
    batch_id = _ready_to_generate(line, *[{"prompt": f"{n}", "gpu": ["absent"]} for n in range(30)], {"prompt": "z"})
    line.worker(GPU)

    assert [item.job_id for item in line.admit()] == [f"{batch_id}-000030"]


def test_what_is_nearest_the_end_shares_a_queue_first(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.ENCODE)
    line.finish(claimed)
    line.submit({"prompt": "a", "enhance": True}, {"prompt": "b", "enhance": True})

    assert [(item.stage, item.job_id) for item in line.admit(window=1)] == [(Stage.PUBLISH, job_id)]


def test_the_next_step_goes_on_only_where_there_is_room(line: Line) -> None:
    batch_id = line.submit(count=3)
    line.worker(GPU)
    line.admit()

    route = dispatch.NextQueue(all_presets)
    claims = [line.claim(f"{batch_id}-{number:06d}", Stage.SCREEN) for number in range(3)]
    finished = [line.finish(claimed, route=route) for claimed in claims]

    assert [item.queue for item in finished] == [GPU, GPU, None]
    assert [line.step(f"{batch_id}-{n:06d}", Stage.GENERATE).state for n in range(3)] == [
        StepState.DISPATCHED,
        StepState.DISPATCHED,
        StepState.WAITING,
    ]
    assert [line.job(f"{batch_id}-{n:06d}").state for n in range(3)] == [
        JobState.IN_FLIGHT,
        JobState.IN_FLIGHT,
        JobState.WAITING,
    ]
    line.check_sums()


@pytest.mark.parametrize("paused", ["batch", GPU, ALL_QUEUES])
def test_what_is_paused_hops_nowhere(line: Line, paused: str) -> None:
    batch_id = line.submit(count=1)
    line.worker(GPU)
    line.admit()
    claimed = line.claim(f"{batch_id}-000000", Stage.SCREEN)
    with line.database.transaction() as session:
        if paused == "batch":
            session.execute(update(Batch).values(paused=True))
        else:
            session.add(Queue(name=paused, paused=True))

    finished = line.finish(claimed, route=dispatch.NextQueue(all_presets))

    assert (finished.recorded, finished.queue) == (True, None)
    assert line.job(f"{batch_id}-000000").state is JobState.WAITING


def test_unsent_steps_wait_again(line: Line) -> None:
    batch_id = line.submit(count=3)
    admitted = line.admit()
    line.claim(f"{batch_id}-000001", Stage.SCREEN)  # this message went out after all

    with line.database.transaction() as session:
        dispatch.undispatch(session, admitted)

    assert [line.job(f"{batch_id}-00000{n}").state for n in range(3)] == [
        JobState.WAITING,
        JobState.IN_FLIGHT,
        JobState.WAITING,
    ]
    line.check_sums()
    assert len(line.admit()) == 2


def test_two_dispatchers_at_once_admit_a_step_once(postgres_database: Database) -> None:
    line = Line(postgres_database)
    line.submit(count=10)

    with ExitStack() as stack:
        first, second = (stack.enter_context(postgres_database.transaction()) for _ in range(2))
        one, two = dispatch.dispatch_waiting(first, window=6), dispatch.dispatch_waiting(second, window=6)

    assert not {item.job_id for item in one} & {item.job_id for item in two}
    assert len(one) == 6
    line.check_sums()


@pytest.mark.breaks_rules  # half a cancel, to see that admission waits for the other half
def test_a_job_that_is_being_cancelled_is_passed_over(postgres_database: Database) -> None:
    line = Line(postgres_database)
    batch_id = line.submit(count=2)

    with postgres_database.transaction() as cancelling:
        cancelling.execute(update(Job).where(Job.id == f"{batch_id}-000000").values(cancel_requested=True))
        assert [item.job_id for item in line.admit()] == [f"{batch_id}-000001"]


@pytest.mark.breaks_rules  # an attempt that nobody made, to tell how long one takes
def test_recent_times_lengthen_a_fast_line(line: Line) -> None:
    batch_id = _ready_to_generate(line, count=30)
    line.worker(GPU)
    step = line.steps(f"{batch_id}-000000")[0]
    with line.database.transaction() as session:
        session.execute(
            insert(StageRun).values(
                step_id=step.id,
                job_id=step.job_id,
                stage="generate",
                attempt=99,
                queue=GPU,
                started_at=0,
                ended_at=1_000,
                outcome="done",
            )
        )

    assert len(line.admit()) == 10
