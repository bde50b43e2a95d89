"""Subscribes a GPU worker's consumer to its preset's queue while the worker's row says that it is ready."""

import logging
from collections.abc import Callable
from typing import Any

from celery import Celery

from db.scheduling import worker_presets
from db.scheduling.worker_presets import Residency
from db.session import Database
from pipeline.policy.routes import gpu_queue, preset_queue, preset_slug_of
from tasks.worker.model_loader import IDLE_POLL_FACTOR

logger = logging.getLogger(__name__)


class QueueSubscription:
    """Subscribes a worker's consumer to its preset's queue while the row says that the worker serves it.

    ``at_once`` makes the change in the caller's thread: a solo worker's loop would see it up to two seconds late.
    """

    def __init__(
        self,
        app: Celery,
        database: Database,
        *,
        name: str,
        gpu_type: str,
        consumer: Callable[[], Any],
        stopping: Callable[[], float | None],
        at_once: bool = False,
    ) -> None:
        self._app = app
        self._database = database
        self._worker = name
        self._gpu_type = gpu_type
        self._consumer = consumer
        self._stopping = stopping
        self._at_once = at_once
        self._polls_to_skip = 0

    def poll(self) -> None:
        """Compare the row with the queues that are read, and change these. Raises ServiceUnavailableError.

        A worker that serves its preset leaves out every second poll.
        """
        if self._stopping() is not None:
            return  # Celery itself stops reading
        if self._polls_to_skip > 0:
            self._polls_to_skip -= 1
            return
        with self._database.reading() as session:
            row = worker_presets.of_worker(session, self._worker)
        if row is None:
            return
        wanted = self._wanted(row)
        if wanted == self._read():
            self._polls_to_skip = IDLE_POLL_FACTOR - 1 if row.serves else 0
            return
        consumer = self._consumer()
        if consumer is None or consumer.task_consumer is None:
            return  # it is connecting: the next poll finds it
        if self._at_once:
            self._change(consumer, wanted)
        else:
            consumer.call_soon(self._change, consumer, wanted)

    def _wanted(self, row: Residency) -> set[str]:
        """The queues that the worker is to read: while it is reserved for a session, that session's alone."""
        if row.reserved_queue is not None and not row.draining:
            return {row.reserved_queue} if row.serves else set()
        wanted = set() if row.draining else {gpu_queue(self._gpu_type)}
        if row.assigned_preset is not None and row.serves:
            wanted.add(preset_queue(self._gpu_type, row.assigned_preset))
        return wanted

    def _read(self) -> set[str]:
        return {queue for queue in self._app.amqp.queues.consume_from if self._is_ours(queue)}

    def _is_ours(self, queue: str) -> bool:
        return preset_slug_of(queue) is not None or queue == gpu_queue(self._gpu_type)

    def _change(self, consumer: Any, wanted: set[str]) -> None:
        read = self._read()
        for queue in sorted(read - wanted):
            consumer.cancel_task_queue(queue)
        for queue in sorted(wanted - read):
            consumer.add_task_queue(queue, exchange="")
        logger.info("queue subscription changed", extra={"worker": self._worker, "reads": sorted(wanted)})
