"""The messages that are sent, and how a task lets its chain go on or cuts it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import update

from db.evals.score_steps import ScoreMessage
from db.models import Job
from db.queue import outcomes, pauses
from db.scheduling.dispatch import StepMessage
from db.session import Database
from pipeline.policy.routes import CPU_QUEUE, IO_QUEUE, encode_queue
from pipeline.settings import load_settings
from pipeline.states import JobState, Stage, StepState
from tasks.app import make_app
from tasks.messages import send, task_name
from tasks.worker import contexts
from tasks.worker.context import WorkerContext
from tasks.worker.step import StepFailedError
from tests.unit.db.line import Line

HOST = encode_queue("x")


@pytest.fixture
def app() -> Iterator[Celery]:
    application = make_app()
    application.conf.broker_url = "memory://"  # which all tests of this process share
    for queue in (IO_QUEUE, CPU_QUEUE, HOST):
        _sent(application, queue)
    yield application
    for queue in (IO_QUEUE, CPU_QUEUE, HOST):
        _sent(application, queue)


def _sent(app: Celery, queue: str) -> list[tuple[str, str, list[Any], list[tuple[str, str]]]]:
    """The messages in a queue: task, root, arguments, and what follows in the chain, each with its queue."""
    messages = []
    with app.connection() as connection, connection.SimpleQueue(queue) as waiting:
        while waiting.qsize():
            message = waiting.get(timeout=1)
            message.ack()
            arguments, _, embedded = message.payload
            rest = [(link["task"], link["options"]["queue"]) for link in reversed(embedded["chain"] or [])]
            messages.append((message.headers["task"], message.headers["root_id"], arguments, rest))
    return messages


def test_a_step_goes_out_with_the_rest_of_its_chain_and_under_its_jobs_id(
    app: Celery, sqlite_database: Database
) -> None:
    steps = [
        StepMessage("j1", 0, Stage.ENHANCE, IO_QUEUE),
        StepMessage("j2", 1, Stage.ENCODE, HOST, scored=True),
        StepMessage("j3", 1, Stage.ENCODE, HOST, last_segment=False),
        StepMessage("j4", 0, Stage.GENERATE, "vgen.gpu.cpu.idle"),
    ]

    assert send(app, sqlite_database, steps, [ScoreMessage(7, CPU_QUEUE), ScoreMessage(8, CPU_QUEUE)]) == 6

    assert _sent(app, IO_QUEUE) == [("vgen.enhance", "j1", ["j1", 0], [("vgen.screen", CPU_QUEUE)])]
    whole = [("vgen.score", HOST), ("vgen.publish", IO_QUEUE)]
    assert _sent(app, HOST) == [("vgen.encode", "j2", ["j2", 1], whole), ("vgen.encode", "j3", ["j3", 1], [])]
    assert _sent(app, "vgen.gpu.cpu.idle") == [("vgen.generate", "j4", ["j4", 0], [])]
    assert [(task, arguments) for task, _, arguments, _ in _sent(app, CPU_QUEUE)] == [
        ("vgen.score_clips", [7]),
        ("vgen.score_clips", [8]),
    ]


def _ids(app: Celery, queue: str) -> list[list[str]]:
    """The ids of the tasks of each chain that waits in a queue."""
    chains = []
    with app.connection() as connection, connection.SimpleQueue(queue) as waiting:
        while waiting.qsize():
            message = waiting.get(timeout=1)
            message.ack()
            rest = [link["options"]["task_id"] for link in reversed(message.payload[2]["chain"] or [])]
            chains.append([message.headers["id"], *rest])
    return chains


def test_a_tasks_id_names_job_roll_segment_stage_and_attempt(app: Celery, sqlite_database: Database) -> None:
    line = Line(sqlite_database)
    _, job_id, claimed = line.bring_to(Stage.PUBLISH)
    with sqlite_database.transaction() as session:
        outcomes.rewind(session, claimed, to=Stage.GENERATE, reason="its frames are gone")
    line.finish(line.go_on(job_id, Stage.GENERATE))

    again, new = (
        StepMessage(job_id, 0, Stage.ENCODE, HOST, attempts=1),
        StepMessage("j2", 3, Stage.ENCODE, HOST, roll=2),
    )
    send(app, sqlite_database, [again, new])

    assert _ids(app, HOST) == [
        [f"{job_id}.1.0.encode.2", f"{job_id}.1.0.publish.2"],
        ["j2.2.3.encode.1", "j2.2.3.publish.1"],
    ]


def test_an_attempt_that_failed_ends_its_task_as_failed(app: Celery, sqlite_database: Database, tmp_path: Path) -> None:
    """A rejected prompt, too; the reason is a code, for a message might hold a prompt."""
    settings = load_settings(home=tmp_path)
    queues = (IO_QUEUE, CPU_QUEUE)
    runtime = WorkerContext("w1", settings, queues=queues, stopping=lambda: None, database=sqlite_database)
    contexts.adopt(app, runtime)
    line = Line(sqlite_database)
    job_id = f"{line.submit({'prompt': 'a cat', 'enhance': True}, again=True)}-000000"
    line.worker()
    line.admit()
    try:
        with pytest.raises(StepFailedError, match=r"^enhance_not_configured$"):
            _run(app, job_id, Stage.ENHANCE)
    finally:
        contexts.drop(app)
    assert line.job(job_id).state is JobState.FAILED


def _run(app: Celery, job_id: str, stage: Stage) -> bool:
    """Run the step's task as a worker does; whether its chain goes on."""
    task = app.tasks[task_name(stage)]
    task.push_request(chain=["the next link"], callbacks=None, hostname="w1")
    try:
        task.run(job_id, 0)
        return bool(task.request.chain)
    finally:
        task.pop_request()


def test_a_chain_goes_on_where_the_finish_dispatched_its_next_step_and_is_cut_elsewhere(
    app: Celery, sqlite_database: Database, tmp_path: Path
) -> None:
    runtime = WorkerContext(
        "w1",
        load_settings(home=tmp_path),
        queues=(IO_QUEUE, CPU_QUEUE),
        stopping=lambda: None,
        database=sqlite_database,
    )
    contexts.adopt(app, runtime)
    line = Line(sqlite_database)
    goes_on, is_paused = (f"{line.submit({'prompt': 'a cat', 'enhance': True}, again=True)}-000000" for _ in range(2))
    for job_id in (goes_on, is_paused):  # nobody is there to be asked for a better prompt
        spec = {**line.job(job_id).spec, "enhance": False}
        with sqlite_database.transaction() as session:
            session.execute(update(Job).where(Job.id == job_id).values(spec=spec))
    line.worker()
    line.admit()
    try:
        assert _run(app, goes_on, Stage.ENHANCE)
        assert line.states(goes_on)[Stage.SCREEN] is StepState.DISPATCHED
        assert not _run(app, goes_on, Stage.ENHANCE), "a message that came twice"
        with sqlite_database.transaction() as session:
            pauses.pause_queue(session, CPU_QUEUE, by="ada")
        assert not _run(app, is_paused, Stage.ENHANCE)
        with sqlite_database.transaction() as session:
            pauses.resume_queue(session, CPU_QUEUE, by="ada")
        assert not _run(app, goes_on, Stage.SCREEN), "what generates is placed"
        assert line.states(goes_on)[Stage.GENERATE] is StepState.WAITING
    finally:
        contexts.drop(app)
