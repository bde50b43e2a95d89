"""Where a chain goes after a finish: on to a queue, or nowhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery import Celery, Task
from sqlalchemy.orm import Session

from db.queue.endings import Finished, Sent
from db.queue.finishing import Hop
from db.scheduling.dispatch import Admitted
from pipeline.states import Stage
from pipeline.work import StepWork
from tasks.messages import publish
from tasks.worker.context import WorkerContext


def hop_of(task: Task, runtime: WorkerContext) -> Hop:
    """Where a finish sends the job on: a queue with room, if this message's chain goes on with the next stage."""

    def hop(session: Session, work: StepWork, stage: Stage, made: dict[str, Any]) -> str | None:
        if stage is work.stage:  # the next segment's, which begins a chain of its own
            return runtime.hops(session, work, stage, made)
        chain = task.request.chain
        if not chain or chain[-1].get("task") != f"vgen.{stage.value}":
            return None
        return runtime.hops(session, work, stage, made)

    return hop


def follow(task: Task, finished: Finished) -> None:
    """Send the chain on as the finish said; else cut it, and the dispatcher goes on later.

    Celery publishes the link after the task returns, to the queue set here. Should that publish fail, the reconciler
    finds the step.
    """
    if finished.queue is None:
        cut(task)
    else:
        task.request.chain[-1]["options"]["queue"] = finished.queue


def send_also(task: Task, runtime: WorkerContext, work: StepWork, finished: Finished) -> None:
    """Begin the chains of the other steps that the finish dispatched. Should it fail, the rows wait again."""
    publish(task.app, runtime.database, _admitted(work, finished.also))


def begin_again(
    app: Celery, runtime: WorkerContext, work: StepWork, finished: Finished, *, after: tuple[str, str]
) -> None:
    """Begin a chain with each step that the finish dispatched. Should it fail, the rows wait again.

    ``after``: ids of the root and the task whose chain was cut.
    """
    sent = finished.also
    if finished.next_stage is not None and finished.queue is not None:
        sent = (Sent(work.segment, finished.next_stage, finished.queue), *sent)
    publish(app, runtime.database, _admitted(work, sent), after=after)


def _admitted(work: StepWork, sent: Iterable[Sent]) -> list[Admitted]:
    scored = work.options.score is not None
    return [Admitted(work.job_id, one.segment, one.stage, one.queue, scored) for one in sent]


def cut(task: Task) -> None:
    """Send nothing after this task. Raising Ignore would leave it unfinished in Flower for ever."""
    task.request.chain = None
    task.request.callbacks = None
