"""Dispatches waiting steps and publishes their chains: first the commit, then the messages."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping

from celery import Celery

from db import workers
from db.evals import runs, score_steps
from db.evals.score_steps import ScoreMessage
from db.scheduling import dispatch, placement, reservations
from db.session import Database
from db.sessions import upkeep
from pipeline import failpoints
from pipeline.errors import ServiceUnavailableError
from pipeline.presets import Preset, load_library
from pipeline.settings import Settings
from tasks.messages import send

logger = logging.getLogger(__name__)


EVALS_EVERY = 2
"""The time of so many polls passes between looks at everything: placements change and evaluation runs end far more
seldom than clips are dispatched, and looking for that costs several times as much."""
_ABOUT = 0.75
"""The part of a time after which it counts as over: a timer is never exact."""


class Dispatcher:
    """Dispatches what waits, one poll after another."""

    def __init__(self, app: Celery, database: Database, settings: Settings) -> None:
        self._app = app
        self._database = database
        self._settings = settings
        self._seldom_at = -math.inf
        silence_ms = max(workers.MISSED_REPORTS_MS, round(settings.worker.lease_s * 1000))
        self._silence_ms = min(workers.ALIVE_MS, silence_ms)
        """A worker that is silent for as long as a lease lasts, or for three reports, is lost to its session."""
        self._reports_missed_until = -math.inf
        """While the database was away nobody could report: until then silence says nothing."""

    def poll(self) -> int | None:
        """Dispatch once, and return how many steps were published; None where another dispatcher is at it.

        Raises:
            ServiceUnavailableError: the database is away.
        """
        try:
            return self._poll()
        except ServiceUnavailableError:
            self._reports_missed_until = time.monotonic() + self._silence_ms / 1000
            raise

    def _poll(self) -> int | None:
        settings, database = self._settings, self._database
        presets = load_library(settings.effective_presets_dir).presets
        trusted = time.monotonic() >= self._reports_missed_until
        reserve_gpus(
            database, presets, settings.stream.gpu_share, silence_ms=self._silence_ms if trusted else workers.FORGET_MS
        )
        with database.transaction() as session:
            messages = dispatch.dispatch_waiting(session, window=settings.worker.window, presets=presets)
        if messages is None:
            return None
        if messages:
            failpoints.hit("dispatch_committed")
        return send(self._app, database, messages) + self._poll_seldom(presets)

    def _poll_seldom(self, presets: Mapping[str, Preset]) -> int:
        """Place models and score evaluation runs, if it is time: after what is awaited at once."""
        now, every_s = time.monotonic(), EVALS_EVERY * self._settings.worker.dispatch_s
        if now < self._seldom_at + every_s * _ABOUT:
            return 0
        self._seldom_at = now
        poll_sessions(self._database)
        if assign_presets(self._database, presets, self._settings.worker.affinity_s):
            self._database.notifier.woken.set()
        scores = self._dispatch_scores()
        if scores:
            failpoints.hit("dispatch_committed")
        return send(self._app, self._database, [], scores)

    def _dispatch_scores(self) -> list[ScoreMessage]:
        with self._database.reading() as session:
            if not runs.some_open(session):
                return []
        with self._database.transaction() as session:
            runs.settle(session)
            gpu = self._settings.eval.workers == "gpu"
            return score_steps.dispatch_waiting(session, window=self._settings.worker.window, gpu=gpu)


def reserve_gpus(
    database: Database, presets: Mapping[str, Preset], share: float, *, silence_ms: int = workers.ALIVE_MS
) -> None:
    """Reserve GPUs for sessions, and end the reservations that are over; nothing while another dispatcher is at it."""
    with database.reading() as session:
        if not reservations.are_due(session):
            return
    with database.transaction() as session:
        if dispatch.is_alone(session):
            reservations.update(session, presets, share=share, silence_ms=silence_ms)


def poll_sessions(database: Database) -> None:
    """End sessions of which nothing is heard, and bring those forward that have ended, each in its own transaction."""
    with database.reading() as session:
        ids = upkeep.unsettled(session)
    for session_id in ids:
        with database.transaction() as session:
            upkeep.poll(session, session_id)


def assign_presets(database: Database, presets: Mapping[str, Preset], affinity_s: float) -> bool:
    """Assign presets to live GPU workers, and return to waiting what nobody serves; whether anything was assigned."""
    with database.reading() as session:
        moves = placement.planned(session, presets, affinity_s=affinity_s)
    if moves:
        with database.transaction() as session:
            moves = placement.assign_presets(session, presets, affinity_s=affinity_s)
        logger.info("presets assigned", extra={"moves": moves})
    with database.transaction() as session:
        placement.withdraw_unserved(session)
    return bool(moves)
