"""Admit waiting steps and publish their chains: commit first, publish after."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence

from celery import Celery, chain, group
from kombu.exceptions import OperationalError

from db import admission, evals, lanes, score_steps
from db.admission import Admitted
from db.score_steps import AdmittedScore
from db.session import Database
from pipeline import failpoints
from pipeline.presets import Preset, load_library
from pipeline.settings import Settings
from pipeline.states import Stage
from tasks.app import SCORE_CLIPS, task_name

logger = logging.getLogger(__name__)


SELDOM = 2
"""Of so many looks one is at everything: lanes change and runs of evaluations end far more seldom than clips are
admitted, and to look for that costs several times as much."""


class Dispatcher:
    """Looks at what waits, again and again."""

    def __init__(self, app: Celery, database: Database, settings: Settings) -> None:
        self._app = app
        self._database = database
        self._settings = settings
        self._looks = itertools.cycle(range(SELDOM))

    def look(self) -> int:
        """One look; how many steps were published.

        Raises:
            ServiceUnavailableError: the database is away.
        """
        settings, database = self._settings, self._database
        presets = load_library(settings.effective_presets_dir).presets
        everything = next(self._looks) == 0
        if everything:
            give_out_lanes(database, presets, settings.worker.affinity_s)
        with database.transaction() as session:
            admitted = admission.admit(session, window=settings.worker.window, presets=presets)
        scores = self._admit_scores() if everything else []
        if admitted or scores:
            failpoints.hit("dispatch_committed")
        return publish(self._app, database, admitted) + publish_scores(self._app, database, scores)

    def _admit_scores(self) -> list[AdmittedScore]:
        with self._database.reading() as session:
            if not evals.some_open(session):
                return []
        with self._database.transaction() as session:
            evals.settle(session)
            gpu = self._settings.eval.workers == "gpu"
            return score_steps.admit(session, window=self._settings.worker.window, gpu=gpu)


def give_out_lanes(database: Database, presets: Mapping[str, Preset], affinity_s: float) -> None:
    """Give live GPU workers the presets that they are to hold, and put what nobody serves back in line."""
    with database.reading() as session:
        moves = lanes.planned(session, presets, affinity_s=affinity_s)
    if moves:
        with database.transaction() as session:
            moves = lanes.give_out(session, presets, affinity_s=affinity_s)
        logger.info("lanes changed", extra={"moves": moves})
    with database.transaction() as session:
        lanes.withdraw_unserved(session)


def publish(
    app: Celery, database: Database, admitted: Sequence[Admitted], *, after: tuple[str, str] | None = None
) -> int:
    """Send a message for each dispatched step; how many went out. The others wait again.

    ``after``: ids of the tasks that Flower is to show as the root and the parent of these.
    """
    if not admitted:
        return 0
    sent, (root, parent) = 0, after or (None, None)
    try:
        with app.producer_pool.acquire(block=True) as producer:
            for item in admitted:
                _chain_from(app, item).apply_async(producer=producer, root_id=root, parent_id=parent)
                sent += 1
                failpoints.hit("dispatch_sent")
    except (OperationalError, OSError) as error:
        # The rows wait again; a message that went out after all finds them dispatched once more, or nothing to claim.
        logger.warning("broker away", extra={"reason": str(error), "unsent": len(admitted) - sent})
        with database.transaction() as session:
            admission.undispatch(session, admitted[sent:])
    return sent


def publish_scores(app: Celery, database: Database, admitted: Sequence[AdmittedScore]) -> int:
    """Send the admitted steps of evaluation runs as one group; how many went out. The others wait again.

    No chord: that all are done is counted in rows.
    """
    if not admitted:
        return 0
    messages = group(
        (app.signature(SCORE_CLIPS, args=(item.step_id,), immutable=True, queue=item.queue) for item in admitted),
        app=app,
    )
    try:
        with app.producer_pool.acquire(block=True) as producer:
            messages.apply_async(producer=producer)
    except (OperationalError, OSError) as error:
        logger.warning("broker away", extra={"reason": str(error), "unsent": len(admitted)})
        with database.transaction() as session:
            score_steps.take_back(session, [item.step_id for item in admitted])
        return 0
    return len(admitted)


def _chain_from(app: Celery, item: Admitted) -> chain:
    """The rest of the line from this step on; each later link's queue is set when its turn comes."""
    stages = [stage for stage in Stage if item.scored or stage is not Stage.SCORE]
    links = [
        app.signature(task_name(stage), args=(item.job_id, item.segment), immutable=True, queue=item.queue)
        for stage in stages[stages.index(item.stage) :]
    ]
    return chain(*links, app=app)
