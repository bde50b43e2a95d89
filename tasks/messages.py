"""Creates and sends every Celery chain and group."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from celery import Celery, chain, group
from kombu.exceptions import OperationalError

from db import events
from db.evals.score_steps import ScoreMessage
from db.models import ScoreStep
from db.queue.outcomes import return_to_waiting
from db.scheduling import dispatch
from db.scheduling.dispatch import StepMessage
from db.session import Database
from pipeline import failpoints
from pipeline.errors import ServiceUnavailableError
from pipeline.ids import task_id
from pipeline.policy.routes import chain_from
from pipeline.states import Stage

logger = logging.getLogger(__name__)


SCORE_CLIPS = "vgen.score_clips"
"""The task that scores clips of an evaluation run."""


_unsure = {"broker"}
"""Holds ``broker`` until this process has recorded that messages go out, and again once one did not."""


def task_name(stage: Stage) -> str:
    return f"vgen.{stage.value}"


def send(app: Celery, database: Database, steps: Sequence[StepMessage], scores: Sequence[ScoreMessage] = ()) -> int:
    """Send the messages of dispatched steps, and return how many went out; the steps of the others wait again.

    A job's step goes out with those that follow it in its chain; the steps of evaluation runs as one group. Flower
    shows all chains of a job under the job's id.
    """
    if not steps and not scores:
        return 0
    count, unsent_scores = 0, list(scores)
    try:
        attempts = _attempts(database, steps)
        with app.producer_pool.acquire(block=True) as producer:
            for step in steps:
                _chain(app, step, attempts).apply_async(producer=producer, root_id=step.job_id)
                count += 1
                failpoints.hit("dispatch_sent")
            if unsent_scores:
                _group(app, unsent_scores).apply_async(producer=producer)
                unsent_scores = []
    except (OperationalError, OSError) as error:
        # The rows wait again; a message that went out after all finds them dispatched once more, or nothing to claim.
        unsent = len(steps) - count + len(unsent_scores)
        logger.warning("broker away", extra={"reason": str(error), "unsent": unsent})
        _unsure.add("broker")
        with database.transaction() as session:
            events.record_broker(session, away=True, reason=str(error))
            dispatch.undispatch(session, steps[count:])
            return_to_waiting(session, ScoreStep, [step.step_id for step in unsent_scores])
    else:
        if _unsure:
            with database.transaction() as session:
                events.record_broker(session, away=False)
            _unsure.clear()
    return count + len(scores) - len(unsent_scores)


Attempts = Mapping[tuple[str, int, int, Stage], int]


def _attempts(database: Database, steps: Sequence[StepMessage]) -> Attempts:
    """Return the earlier attempts of the steps in these messages, without those that are sent for the first time.

    Where the first step of a chain was never claimed, no later one was.
    """
    again = [step for step in steps if step.attempts]
    if not again:
        return {}
    try:
        with database.reading() as session:
            return dispatch.earlier_attempts(session, again)
    except ServiceUnavailableError:  # the names of tasks are for people only
        return {}


def _chain(app: Celery, step: StepMessage, attempts: Attempts) -> chain:
    links = chain_from(step.stage, step.queue, scored=step.scored, last_segment=step.last_segment)
    return chain(
        *(
            app.signature(
                task_name(stage),
                args=(step.job_id, step.segment),
                immutable=True,
                queue=queue,
                task_id=_next_id(step, stage, attempts),
            )
            for stage, queue in links
        ),
        app=app,
    )


def _next_id(step: StepMessage, stage: Stage, attempts: Attempts) -> str:
    attempt = attempts.get((step.job_id, step.roll, step.segment, stage), 0) + 1
    return task_id(step.job_id, step.roll, step.segment, stage.value, attempt)


def _group(app: Celery, steps: Sequence[ScoreMessage]) -> group:
    """No chord: that all are done is counted in rows."""
    return group(
        (app.signature(SCORE_CLIPS, args=(step.step_id,), immutable=True, queue=step.queue) for step in steps), app=app
    )
