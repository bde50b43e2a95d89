"""Where a chain goes after a finish: on to a queue, or nowhere."""

from __future__ import annotations

from celery import Task
from sqlalchemy.orm import Session

from db import admission
from db.steps import Claim
from pipeline.states import Stage


def next_hop(session: Session, task: Task, claimed: Claim, stage: Stage) -> None:
    """Send the chain on to the next stage's queue if that has room now, else cut it: the dispatcher goes on later.

    Called inside the finish's transaction: the next step is dispatched with it, and Celery publishes the link after
    the task returns, to the queue set here. Should that publish fail, the reconciler finds the step.
    """
    chain = task.request.chain
    if not chain or chain[-1].get("task") != f"vgen.{stage.value}":
        cut(task)
        return
    work = claimed.work
    queue = admission.hop(session, work.job_id, work.roll, work.segment, stage)
    if queue is None:
        cut(task)
    else:
        chain[-1]["options"]["queue"] = queue


def cut(task: Task) -> None:
    """Send nothing after this task. Raising Ignore would leave it unfinished in Flower for ever."""
    task.request.chain = None
    task.request.callbacks = None
