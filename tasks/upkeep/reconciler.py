"""Recover from lost messages, dead workers and hosts that are gone."""

from __future__ import annotations

import contextlib
import logging

from celery import Celery
from kombu.exceptions import ChannelError, OperationalError

from db import workers
from db.queue import recovery
from db.reading import handoffs
from db.scheduling import reservations
from db.session import Database
from pipeline import failpoints
from pipeline.handoff import Handoff

logger = logging.getLogger(__name__)

LOST_MESSAGE_MS = 10_000
"""A step dispatched longer ago than this, with no message for it in the broker, is published again."""
LOST_HANDOFF_MS = 30_000
"""Frames are made again when nobody alive can read their hand-off for so long."""


def reconcile_once(app: Celery, database: Database, *, end_leases: bool = True) -> int:
    """One page of repairs; how many steps were put right.

    ``end_leases`` is False while it is not known that workers could renew: just after this process started, or after
    the database was away.

    Raises:
        ServiceUnavailableError: the database is away.
    """
    repaired = 0
    if end_leases:
        failpoints.hit("lease_ending")
        with database.transaction() as session:
            repaired += recovery.end_leases(session)
        with database.transaction() as session:
            repaired += recovery.rewind_lost_handoffs(session, gone_ms=LOST_HANDOFF_MS)
        with database.transaction() as session:
            repaired += recovery.move_lost_scores(session, gone_ms=LOST_HANDOFF_MS)
    with database.reading() as session:
        counts = recovery.dispatched_counts(session, older_than_ms=LOST_MESSAGE_MS)
    suspects = {queue: count for queue, (count, old) in counts.items() if old}
    lost = [
        queue for queue, count in suspects.items() if (depth := queue_depth(app, queue)) is not None and depth < count
    ]
    with database.transaction() as session:
        if lost:
            repaired += recovery.redispatch(session, lost, older_than_ms=LOST_MESSAGE_MS)
        workers.forget_old(session)
    with database.reading() as session:
        abandoned = reservations.abandoned_queues(session)
    for queue in abandoned:
        _purge(app, queue)
    if repaired:
        logger.info("reconciled", extra={"steps": repaired})
    return repaired


def take_over_home(database: Database) -> None:
    """Take over the rows of a home that a solo run has just locked: no earlier lease, message or worker can be alive.

    A dead worker's row would keep its preset, and so its jobs, until it is taken for dead.
    """
    with database.transaction() as session:
        workers.forget_all(session)
    while True:
        with database.transaction() as session:
            ended = recovery.end_leases(session, all_of_them=True)
            queues = list(recovery.dispatched_counts(session, older_than_ms=0))
            again = recovery.redispatch(session, queues, older_than_ms=-1)
        if not ended and not again:
            return


def sweep_handoff(database: Database, handoff: Handoff, *, older_than_s: float) -> int:
    """Remove what no step will read: frames of attempts that died; how many sets were removed."""
    job_ids, live = handoff.job_ids(), set[str]()
    if job_ids:
        with database.reading() as session:
            live = handoffs.live_stems(session, job_ids)
    return handoff.sweep(live, older_than_s=older_than_s)


def _purge(app: Celery, queue: str) -> None:
    """Remove a queue that nobody reads, with the doubled or late messages in it: Redis would keep it for ever."""
    with (
        contextlib.suppress(OperationalError, OSError),
        app.pool.acquire(block=True) as connection,
        contextlib.suppress(ChannelError, *connection.connection_errors),  # none there; or the next poll does it
    ):
        connection.default_channel.queue_purge(queue)


def queue_depth(app: Celery, queue: str) -> int | None:
    """Messages waiting in the broker's queue; None when the broker cannot say."""
    try:
        with app.pool.acquire(block=True) as connection:  # a new one costs more than all else that a poll does
            try:
                declared = connection.default_channel.queue_declare(queue=queue, passive=True)
            except ChannelError:
                return 0  # no such queue: nothing waits in it
            except connection.connection_errors:  # one that the broker has closed; the next poll has another
                return None
            return int(declared.message_count)
    except (OperationalError, OSError):
        return None
