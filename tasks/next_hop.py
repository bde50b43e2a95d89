"""Where a chain goes after a finish: on to a queue, or nowhere."""

from __future__ import annotations

from typing import Any

from celery import Task
from sqlalchemy.orm import Session

from db.admission import Admitted
from db.endings import Finished
from db.finishing import Hop
from pipeline.stages.base import StepWork
from pipeline.states import Stage
from tasks.dispatch import publish
from tasks.runtime import Runtime


def hop_of(task: Task, runtime: Runtime) -> Hop:
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


def send_also(task: Task, runtime: Runtime, work: StepWork, finished: Finished) -> None:
    """Begin the chains of the other steps that the finish dispatched. Should it fail, the rows wait again."""
    scored = work.options.score is not None
    items = [Admitted(work.job_id, sent.segment, sent.stage, sent.queue, scored) for sent in finished.also]
    publish(task.app, runtime.database, items)


def cut(task: Task) -> None:
    """Send nothing after this task. Raising Ignore would leave it unfinished in Flower for ever."""
    task.request.chain = None
    task.request.callbacks = None
