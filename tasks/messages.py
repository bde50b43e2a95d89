"""The messages of the line: the one place where Celery chains and groups are made and sent."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from celery import Celery, chain, group
from kombu.exceptions import OperationalError

from db.evals import score_steps
from db.evals.score_steps import ScoreMessage
from db.scheduling import dispatch
from db.scheduling.dispatch import StepMessage
from db.session import Database
from pipeline import failpoints
from pipeline.states import Stage

logger = logging.getLogger(__name__)


SCORE_CLIPS = "vgen.score_clips"
"""The task that scores clips of an evaluation run."""


def task_name(stage: Stage) -> str:
    return f"vgen.{stage.value}"


def publish(
    app: Celery, database: Database, steps: Sequence[StepMessage], *, after: tuple[str, str] | None = None
) -> int:
    """Send a message for each dispatched step; how many went out. The others wait again.

    ``after``: ids of the tasks that Flower is to show as the root and the parent of these.
    """
    if not steps:
        return 0
    count, (root, parent) = 0, after or (None, None)
    try:
        with app.producer_pool.acquire(block=True) as producer:
            for item in steps:
                _chain_from(app, item).apply_async(producer=producer, root_id=root, parent_id=parent)
                count += 1
                failpoints.hit("dispatch_sent")
    except (OperationalError, OSError) as error:
        # The rows wait again; a message that went out after all finds them dispatched once more, or nothing to claim.
        logger.warning("broker away", extra={"reason": str(error), "unsent": len(steps) - count})
        with database.transaction() as session:
            dispatch.undispatch(session, steps[count:])
    return count


def publish_scores(app: Celery, database: Database, steps: Sequence[ScoreMessage]) -> int:
    """Send the dispatched steps of evaluation runs as one group; how many went out. The others wait again.

    No chord: that all are done is counted in rows.
    """
    if not steps:
        return 0
    messages = group(
        (app.signature(SCORE_CLIPS, args=(item.step_id,), immutable=True, queue=item.queue) for item in steps), app=app
    )
    try:
        with app.producer_pool.acquire(block=True) as producer:
            messages.apply_async(producer=producer)
    except (OperationalError, OSError) as error:
        logger.warning("broker away", extra={"reason": str(error), "unsent": len(steps)})
        with database.transaction() as session:
            score_steps.return_to_waiting(session, [item.step_id for item in steps])
        return 0
    return len(steps)


def _chain_from(app: Celery, item: StepMessage) -> chain:
    """The rest of the line from this step on; each later link's queue is set when its turn comes."""
    stages = [stage for stage in Stage if item.scored or stage is not Stage.SCORE]
    links = [
        app.signature(task_name(stage), args=(item.job_id, item.segment), immutable=True, queue=item.queue)
        for stage in stages[stages.index(item.stage) :]
    ]
    return chain(*links, app=app)
