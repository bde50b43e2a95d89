"""Model placement in rows: waiting clips are found by need, presets are assigned once, none is left unserved."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, update

from db import workers
from db.models import Event, Queue, Step, Worker
from db.scheduling import placement, worker_presets
from db.session import Database, now_ms
from db.workers import WorkerReport
from pipeline.errors import NotFoundError
from pipeline.policy.routes import ALL_QUEUES, gpu_queue, preset_queue
from pipeline.presets import all_presets
from pipeline.states import JobState, Stage, StepState
from service.changes import draining
from tests.unit.db.line import Line

LONG_AGO_MS = 3_600_000


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def gpu(line: Line, name: str, *, kind: str = "cpu", draining: bool = False) -> None:
    """A GPU worker that holds nothing yet."""
    with line.database.transaction() as session:
        workers.report(session, WorkerReport(name, "host", 1, [gpu_queue(kind)], gpu_type=kind, draining=draining))


def change(line: Line, name: str, **values: object) -> None:
    with line.database.transaction() as session:
        session.execute(update(Worker).where(Worker.name == name).values(**values))


def row(line: Line, name: str) -> Worker:
    with line.database.reading() as session:
        return session.scalars(select(Worker).where(Worker.name == name)).one()


def ready_to_generate(line: Line, *jobs: dict[str, object]) -> str:
    batch_id = line.submit(*jobs, again=True)
    for item in line.admit(window=1_000):
        line.finish(line.claim(item.job_id, item.stage))
    return batch_id


def of(preset: str, count: int, **more: object) -> list[dict[str, object]]:
    return [{"prompt": f"{preset} {number}", "preset": preset, **more} for number in range(count)]


def assign_presets(database: Database, affinity_s: float = 600.0) -> dict[str, str | None]:
    with database.transaction() as session:
        return placement.assign_presets(session, all_presets(), affinity_s=affinity_s)


def load(line: Line, name: str, preset: str) -> None:
    with line.database.transaction() as session:
        worker_presets.set_loaded(session, name, preset)


def kinds(line: Line) -> list[str]:
    with line.database.reading() as session:
        return [event.kind for event in session.scalars(select(Event).where(Event.job_id.is_(None)).order_by(Event.id))]


def test_a_clip_is_dispatched_to_its_presets_queue_once_a_worker_has_loaded_it(line: Line) -> None:
    ready_to_generate(line, *of("idle", 3), *of("tiny-wan", 3))
    gpu(line, "a")
    gpu(line, "b")

    assert assign_presets(line.database) == {"a": "idle", "b": "tiny-wan"}
    assert assign_presets(line.database) == {}
    assert line.admit() == []
    load(line, "b", "tiny-wan")
    assert [item.queue for item in line.admit()] == [preset_queue("cpu", "tiny-wan")] * 2
    load(line, "a", "idle")
    assert [item.queue for item in line.admit()] == [preset_queue("cpu", "idle")] * 2
    line.check_sums()


def test_several_dispatchers_at_once_give_each_worker_one_preset(line: Line) -> None:
    ready_to_generate(line, *of("idle", 9), *of("tiny-wan", 9))
    for number in range(4):
        gpu(line, f"w{number}")

    with ThreadPoolExecutor(4) as pool:
        moves = list(pool.map(lambda _: assign_presets(line.database), range(4)))

    given = [name for some in moves for name in some]
    assert sorted(given) == [f"w{number}" for number in range(4)]
    assert kinds(line).count("preset_assigned") == 4
    assert {row(line, name).assigned_preset for name in given} == {"idle", "tiny-wan"}


def test_who_drains_is_gone_or_whose_type_is_not_asked_for_gets_no_preset(line: Line) -> None:
    gpu(line, "drains", draining=True)
    gpu(line, "gone")
    gpu(line, "other", kind="t4")
    change(line, "gone", seen_at=1)
    ready_to_generate(line, *of("idle", 3, gpu=["cpu"]))

    assert assign_presets(line.database) == {}


@pytest.mark.parametrize("name", [ALL_QUEUES, "vgen.gpu", "vgen.gpu.cpu", "vgen.gpu.cpu.idle"])
def test_nothing_is_loaded_for_what_is_paused(line: Line, name: str) -> None:
    gpu(line, "a")
    ready_to_generate(line, *of("idle", 3))
    with line.database.transaction() as session:
        session.add(Queue(name=name, paused=True))

    assert assign_presets(line.database) == {}


def test_a_preset_that_waited_too_long_gets_the_worker_and_the_other_ones_steps_go_back(line: Line) -> None:
    ready_to_generate(line, *of("idle", 5))
    line.worker(preset_queue("cpu", "idle"), name="a")
    assert len(line.admit()) == 2
    ready_to_generate(line, *of("tiny-wan", 1))
    assert assign_presets(line.database) == {}

    change(line, "a", assigned_since=now_ms() - LONG_AGO_MS)
    assert assign_presets(line.database, affinity_s=0) == {"a": "tiny-wan"}

    with line.database.transaction() as session:
        assert placement.withdraw_unserved(session) == 2
        assert placement.withdraw_unserved(session) == 0
    with line.database.reading() as session:
        left = session.scalars(select(Step).where(Step.stage == Stage.GENERATE)).all()
    assert {step.state for step in left} == {StepState.WAITING}
    line.check_sums()


def test_the_steps_of_a_dead_or_draining_worker_go_back_in_line_at_once(line: Line) -> None:
    batch_id = ready_to_generate(line, *of("idle", 1))
    line.worker(preset_queue("cpu", "idle"), name="a")
    assert len(line.admit()) == 1
    change(line, "a", draining=True)

    with line.database.transaction() as session:
        assert placement.withdraw_unserved(session) == 1

    assert line.job(f"{batch_id}-000000").state is JobState.WAITING
    assert line.admit() == []


def test_a_failed_load_is_seen_the_other_worker_tries_and_then_the_jobs_hear_of_it(line: Line) -> None:
    ready_to_generate(line, *of("idle", 1))
    gpu(line, "a")
    gpu(line, "b")
    assert assign_presets(line.database) == {"a": "idle"}

    for name in ("a", "b"):
        assert line.admit() == []
        with line.database.transaction() as session:
            worker_presets.record_failed_load(session, name, "idle", code="model_missing", error="no weights")
        assert line.admit() == []
        moves = assign_presets(line.database)
        assert moves == ({"a": None, "b": "idle"} if name == "a" else {"b": "idle"})
        assert assign_presets(line.database) == {}

    assert [item.queue for item in line.admit()] == [preset_queue("cpu", "idle")]
    assert kinds(line).count("preset_failed") == 2
    # A load that works after all, in a step or later, ends it
    load(line, "b", "idle")
    assert row(line, "b").failed_presets == {}


def test_a_worker_that_drained_itself_stays_so_whatever_it_reports(line: Line) -> None:
    gpu(line, "a")
    with line.database.transaction() as session:
        worker_presets.drain(session, "a", "3 different jobs crashed here in a row")
        worker_presets.drain(session, "a", "again")
    gpu(line, "a")

    assert (row(line, "a").draining, row(line, "a").drain_reason) == (True, "3 different jobs crashed here in a row")
    assert kinds(line) == ["worker_drained"]
    ready_to_generate(line, *of("idle", 1))
    assert assign_presets(line.database) == {}


def test_of_many_batches_no_more_are_counted_than_decide_anything(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_MOST_COUNTED", 2)
    for priority in (0, 0, 0, 3):
        ready_to_generate(line, *of("idle", 1, priority=priority))
    ready_to_generate(line, *of("idle", 1), *of("tiny-wan", 1, priority=1))
    gpu(line, "a")

    with line.database.reading() as session:
        workers_alive = workers.alive(session)
        demands = placement._demands(session, workers_alive, all_presets(), now=workers.now(session))

    assert {(demand.preset, demand.waiting, demand.priority) for demand in demands} == {
        ("idle", 2, 3),
        ("tiny-wan", 1, 1),
    }


def test_a_drained_host_keeps_all_but_its_gpus_and_an_unknown_one_is_named(line: Line) -> None:
    # Given two hosts, one with a GPU worker and an io worker
    with line.database.transaction() as session:
        for name, host, gpu_type in (("gpu0@a", "a", "h200"), ("io@a", "a", None), ("gpu0@b", "b", "h200")):
            queue = gpu_queue(gpu_type) if gpu_type else "vgen.io"
            workers.report(session, WorkerReport(name, host, 1, [queue], gpu_type=gpu_type))

    drained = draining.drain(line.database, "a", by="ada")

    assert (drained.workers, drained.left) == (["gpu0@a"], 0)
    with line.database.reading() as session:
        assert {row.name: row.draining for row in workers.alive(session)} == {
            "gpu0@a": True,
            "gpu0@b": False,
            "io@a": False,
        }
    with pytest.raises(NotFoundError, match="'c'; hosts with live workers: a, b"):
        draining.drain(line.database, "c", by="ada")
