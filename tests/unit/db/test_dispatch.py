"""Which steps are dispatched: windows, priority, fair shares, the choice of a GPU type."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from sqlalchemy import event, insert, select, update
from sqlalchemy.orm import Session

from db import workers
from db.clips.batches import Limits
from db.models import Job, Queue, StageRun, Step, Worker
from db.queue import outcomes, pauses
from db.scheduling import dispatch, fair_share
from db.scheduling.capacity import in_flight
from db.session import Database, now_ms
from pipeline.errors import CrashError
from pipeline.policy.routes import ALL_QUEUES, CPU_QUEUE, IO_QUEUE, encode_queue, preset_queue
from pipeline.spec import ScoreOptions
from pipeline.states import JobState, Stage, StepState
from pipeline.work import StageResult
from tests.outputs import generated
from tests.unit.db.line import GPU, HANDOFF, QUEUES, Line


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


@pytest.mark.breaks_rules  # an attempt that nobody made, to tell how long one takes
def test_an_urgent_job_starts_after_at_most_one_waiting_job_a_slot_while_a_batch_is_screened(line: Line) -> None:
    batch_id = _full_line(line)
    urgent = line.submit({"prompt": "now", "priority": 100}) + "-000000"
    line.admit()
    line.finish(line.claim(urgent, Stage.SCREEN))

    assert urgent in _generated(line, batch_id)[:2]


@pytest.mark.breaks_rules  # an attempt that nobody made, to tell how long one takes
def test_a_clip_whose_generator_crashed_is_not_passed_by_those_that_are_screened_later(line: Line) -> None:
    batch_id = _full_line(line)
    crashed = f"{batch_id}-000000"
    with line.database.transaction() as session:
        outcomes.fail(session, line.claim(crashed, Stage.GENERATE), CrashError("died"))
    _screen(line, batch_id, 20)
    line.make_due(crashed)
    line.admit()
    generating = f"{batch_id}-000001"

    assert crashed in _generated(line, batch_id, generating)[:2]


def _full_line(line: Line) -> str:
    """A batch of which one clip of 60 s fills the GPU and another waits for it."""
    batch_id = line.submit(count=30)
    line.worker(GPU)
    line.worker(CPU_QUEUE, name="cpu")
    line.admit()
    _screen(line, batch_id, 0)
    _record_attempt(line, f"{batch_id}-000000", seconds=60)
    _screen(line, batch_id, 1)
    line.admit()
    return batch_id


def _generated(line: Line, batch_id: str, first: str | None = None) -> list[str]:
    """The jobs that are generated next, while a prompt is screened between any two polls of the dispatcher."""
    running = line.claim(first or f"{batch_id}-000000", Stage.GENERATE)
    (waiting,) = _sent_to_generate(line)
    started = []
    for number in range(2, 14):
        line.finish(running)
        _screen(line, batch_id, number)
        running = line.claim(waiting, Stage.GENERATE)
        started.append(waiting)
        line.admit()
        (waiting,) = _sent_to_generate(line)
    return started


def _sent_to_generate(line: Line) -> list[str]:
    sent = select(Step.job_id).where(Step.stage == Stage.GENERATE, Step.state == StepState.DISPATCHED)
    with line.database.reading() as session:
        return list(session.scalars(sent))


def _screen(line: Line, batch_id: str, number: int) -> None:
    line.finish(line.claim(f"{batch_id}-{number:06d}", Stage.SCREEN))


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
    with line.database.transaction() as session:
        pauses.pause_queue(session, IO_QUEUE, by="ada")
    line.finish(claimed)
    line.submit({"prompt": "a", "enhance": True}, {"prompt": "b", "enhance": True})
    with line.database.transaction() as session:
        pauses.resume_queue(session, IO_QUEUE, by="ada")

    assert [(item.stage, item.job_id) for item in line.admit(window=1)] == [(Stage.PUBLISH, job_id)]


def test_a_finish_leaves_what_generates_to_the_dispatcher(line: Line) -> None:
    job_id = line.submit(count=1) + "-000000"
    line.worker(GPU)
    line.admit()

    finished = line.finish(line.claim(job_id, Stage.SCREEN))

    assert (finished.next_stage, finished.queue) == (Stage.GENERATE, None)
    assert line.states(job_id)[Stage.GENERATE] is StepState.WAITING
    assert line.job(job_id).state is JobState.WAITING
    line.check_sums()


def test_a_finish_lets_the_rest_of_its_chain_go_on(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.ENHANCE, enhance=True)

    finished = line.finish(claimed)

    assert (finished.next_stage, finished.queue) == (Stage.SCREEN, CPU_QUEUE)
    assert line.states(job_id)[Stage.SCREEN] is StepState.DISPATCHED
    assert line.job(job_id).state is JobState.IN_FLIGHT


@pytest.mark.parametrize("paused", ["batch", CPU_QUEUE, ALL_QUEUES])
def test_what_is_paused_cuts_its_chain(line: Line, paused: str) -> None:
    batch_id, job_id, claimed = line.bring_to(Stage.ENHANCE, enhance=True)
    with line.database.transaction() as session:
        if paused == "batch":
            pauses.pause_batch(session, batch_id, by="ada")
        else:
            pauses.pause_queue(session, paused, by="ada")

    finished = line.finish(claimed)

    assert (finished.recorded, finished.queue) == (True, None)
    assert line.states(job_id)[Stage.SCREEN] is StepState.WAITING
    assert line.job(job_id).state is JobState.WAITING


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


def test_one_dispatcher_at_a_time_fills_the_room_and_none_waits_for_it(postgres_database: Database) -> None:
    line = Line(postgres_database)
    _ready_to_generate(line, count=9)
    line.worker(GPU)

    with ExitStack() as stack:
        first, second = (stack.enter_context(postgres_database.transaction()) for _ in range(2))
        one, two = dispatch.dispatch_waiting(first, window=6), dispatch.dispatch_waiting(second, window=6)

    assert [item.queue for item in one or []] == [GPU, GPU]
    assert two is None
    assert line.admit() == []
    line.check_sums()


def test_many_dispatchers_never_overfill_a_window(postgres_database: Database) -> None:
    line = Line(postgres_database)
    _ready_to_generate(line, count=40)
    line.submit(count=40)
    line.worker(GPU)
    together = threading.Barrier(4)

    def poll() -> None:
        for _ in range(10):
            together.wait()
            line.admit(window=5)

    with ThreadPoolExecutor(4) as pool:
        for poller in [pool.submit(poll) for _ in range(4)]:
            poller.result()

    with postgres_database.reading() as session:
        assert in_flight(session) == {GPU: 2, CPU_QUEUE: 5}


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
    _record_attempt(line, f"{batch_id}-000000", seconds=1)

    assert len(line.admit()) == 10


def _record_attempt(line: Line, job_id: str, *, seconds: int) -> None:
    """One attempt at generating that took so long."""
    step = line.steps(job_id)[0]
    with line.database.transaction() as session:
        session.execute(
            insert(StageRun).values(
                step_id=step.id,
                job_id=step.job_id,
                stage="generate",
                attempt=99,
                queue=GPU,
                started_at=0,
                ended_at=1_000 * seconds,
                outcome="done",
            )
        )


def _read(session: Session) -> list[str]:
    """The batches of which steps are read from here on."""
    batches: list[str] = []

    def note(_: object, __: object, statement: str, parameters: dict[str, object], *___: object) -> None:
        if "FOR UPDATE OF jobs" in statement:
            batches.append(str(parameters["batch_id_1"]))

    event.listen(session.connection(), "before_cursor_execute", note)
    return batches


@pytest.mark.parametrize("stage", [Stage.SCREEN, Stage.GENERATE])
def test_of_many_batches_no_more_are_read_than_have_room(postgres_database: Database, stage: Stage) -> None:
    line = Line(postgres_database)
    for _ in range(12):
        _ready_to_generate(line, count=1) if stage is Stage.GENERATE else line.submit(count=1, again=True)
    line.worker()

    with postgres_database.transaction() as session:
        batches = _read(session)
        dispatched = dispatch.dispatch_waiting(session, window=2)

    assert dispatched is not None
    assert len(dispatched) == len(batches) == 2


@pytest.mark.parametrize("seed", range(8))
def test_what_is_not_read_would_not_have_been_dispatched(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    line, chance = Line(sqlite_database), random.Random(seed)
    for _ in range(60):
        jobs = [
            {
                "prompt": str(number),
                "priority": chance.choice((0, 0, 1, 5)),
                **chance.choice(({}, {}, {"gpu": ["cpu"]})),
            }
            for number in range(chance.choice((1, 1, 1, 3)))
        ]
        limits = Limits(deadline_at=chance.choice((None, 2**40, 2**41)))
        line.submit(*jobs, owner=chance.choice("abc"), limits=limits, again=True)
    for item in line.admit(window=40):
        line.finish(line.claim(item.job_id, item.stage))
    with sqlite_database.transaction() as session:
        backoff = update(Step).where(Step.state == StepState.WAITING, Step.id % 5 == 0)
        session.execute(backoff.values(not_before=now_ms() + 60_000))
    line.worker(slots=1)

    def dispatched() -> list[dispatch.StepMessage] | None:
        with sqlite_database.transaction() as session:
            messages = dispatch.dispatch_waiting(session, window=window)
            session.rollback()
            return messages

    window = chance.choice((2, 4))
    of_those_read = dispatched()
    monkeypatch.setattr(fair_share.Enough, "reached", lambda *_: False)

    assert of_those_read
    assert of_those_read == dispatched()


@pytest.mark.parametrize("stage", [Stage.ENCODE, Stage.SCORE])
def test_steps_of_a_paused_handoff_hold_up_nobody_behind_them(line: Line, stage: Stage) -> None:
    line.worker(*QUEUES, encode_queue("paused"), slots=20)
    score = ScoreOptions(metrics=("checks",)) if stage is Stage.SCORE else None
    batch_id = line.submit(count=2, score=score)
    ids = [f"{batch_id}-{number:06d}" for number in range(2)]
    for job_id, handoff_id in zip(ids, ("paused", HANDOFF), strict=True):
        generating = line.go_on(job_id, Stage.GENERATE)
        line.finish(generating, StageResult(generated().model_copy(update={"handoff_id": handoff_id})))
        if stage is Stage.SCORE:
            line.finish(line.claim(job_id, Stage.ENCODE, queues=(encode_queue(handoff_id),)))
    with line.database.transaction() as session:
        outcomes.return_to_waiting(session, Step, [line.step(job_id, stage).id for job_id in ids])
        pauses.pause_queue(session, encode_queue("paused"), by="ada")

    assert [(item.job_id, item.queue) for item in line.admit(window=1)] == [(ids[1], encode_queue(HANDOFF))]
