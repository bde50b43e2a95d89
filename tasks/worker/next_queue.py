"""The way of a chain after a finish: on to a queue, or nowhere."""

from __future__ import annotations

from collections.abc import Iterable

from celery import Celery, Task
from sqlalchemy.orm import Session

from db.queue.attempt_endings import DispatchedStep, Finished
from db.queue.finishing import Route
from db.scheduling.dispatch import StepMessage
from pipeline.outputs import StageOutput
from pipeline.states import Stage
from pipeline.work import StepWork
from tasks.messages import publish
from tasks.worker.context import WorkerContext


def route_of(task: Task, runtime: WorkerContext) -> Route:
    """Return the route of a finish: a queue with room, if this message's chain continues with the next stage."""

    def route(session: Session, work: StepWork, stage: Stage, output: StageOutput | None) -> str | None:
        if stage is work.stage:  # the next segment's, which begins a chain of its own
            return runtime.next_queue(session, work, stage, output)
        chain = task.request.chain
        if not chain or chain[-1].get("task") != f"vgen.{stage.value}":
            return None
        return runtime.next_queue(session, work, stage, output)

    return route


def continue_chain(task: Task, finished: Finished) -> None:
    """Send the chain on to the queue that the finish chose; else cut it, and the dispatcher goes on later.

    Celery publishes the link after the task returns, to the queue set here. Should that publish fail, the reconciler
    finds the step.
    """
    if finished.queue is None:
        cut(task)
    else:
        task.request.chain[-1]["options"]["queue"] = finished.queue


def send_others(task: Task, runtime: WorkerContext, work: StepWork, finished: Finished) -> None:
    """Begin the chains of the other steps that the finish dispatched. Should it fail, the rows wait again."""
    publish(task.app, runtime.database, _messages_of(work, finished.others))


def send_chains(
    app: Celery, runtime: WorkerContext, work: StepWork, finished: Finished, *, after: tuple[str, str]
) -> None:
    """Begin a chain with each step that the finish dispatched. Should it fail, the rows wait again.

    ``after``: ids of the root and the task whose chain was cut.
    """
    steps = finished.others
    if finished.next_stage is not None and finished.queue is not None:
        steps = (DispatchedStep(work.segment, finished.next_stage, finished.queue), *steps)
    publish(app, runtime.database, _messages_of(work, steps), after=after)


def _messages_of(work: StepWork, steps: Iterable[DispatchedStep]) -> list[StepMessage]:
    scored = work.options.score is not None
    return [StepMessage(work.job_id, step.segment, step.stage, step.queue, scored) for step in steps]


def cut(task: Task) -> None:
    """Send nothing after this task. Raising Ignore would leave it unfinished in Flower for ever."""
    task.request.chain = None
    task.request.callbacks = None
