"""Where a chain goes after a finish: on to a queue, or nowhere."""

from __future__ import annotations

from typing import Any

from celery import Task
from sqlalchemy.orm import Session

from db.steps import Finished, Hop
from pipeline.stages.base import StepWork
from pipeline.states import Stage
from tasks.runtime import Runtime


def hop_of(task: Task, runtime: Runtime) -> Hop:
    """Where a finish sends the job on: a queue with room, if this message's chain goes on with the next stage."""

    def hop(session: Session, work: StepWork, stage: Stage, made: dict[str, Any]) -> str | None:
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


def cut(task: Task) -> None:
    """Send nothing after this task. Raising Ignore would leave it unfinished in Flower for ever."""
    task.request.chain = None
    task.request.callbacks = None
