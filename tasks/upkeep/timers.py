"""The timers of a process: worker reports, dispatch, reconcile. Several processes may run them at once."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from celery import Celery
from celery.worker import state as worker_state

from db import workers
from db.listen import Listener
from db.reading import totals
from db.session import Database
from db.workers import WorkerReport
from pipeline.errors import RetryableError, ServiceUnavailableError
from pipeline.handoff import Handoff
from pipeline.policy.routes import IO_QUEUE, gpu_type_of, is_encode_queue
from pipeline.settings import Settings
from pipeline.wiring import make_storage
from tasks.upkeep.alerts import POLL_S, Alerts
from tasks.upkeep.dispatcher import Dispatcher
from tasks.upkeep.queue_subscription import QueueSubscription
from tasks.upkeep.reconciler import reconcile_once, sweep_handoff
from tasks.upkeep.sweeper import sweep_if_due
from tasks.worker.watchdog import POLL_S as POLL_WORKER_S
from tasks.worker.watchdog import Watchdog

logger = logging.getLogger(__name__)

REPORT_S = 5.0
SWEEP_S = 60.0
FOLD_S = 5.0
_SAID_EVERY_S = 60.0
_REPEAT_S = (0.01, 0.05)
DISPATCHER = "dispatcher"
"""Role of a process that only dispatches: it reports itself like a worker, with no queue."""


class _Timer(threading.Thread):
    """Calls a function again and again until told to stop; an error never ends it.

    ``woken`` has it called before its time.
    """

    def __init__(
        self, name: str, every_s: float, work: Callable[[], object], *, woken: threading.Event | None = None
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._every_s = every_s
        self._work = work
        self._woken = woken or threading.Event()
        self._pace = _Pace()
        self._over = threading.Event()
        self._waits_since: float | None = None
        self._failed: tuple[object, float] = (None, 0.0)
        """What was logged of the last error, and when."""

    def run(self) -> None:
        while not self._over.is_set():
            self._woken.clear()
            started = time.thread_time()
            try:
                self._work()
                if self._waits_since is not None:
                    away_s = round(time.monotonic() - self._waits_since, 1)
                    logger.warning("timer goes on", extra={"timer": self.name, "waited_s": away_s})
                self._waits_since = None
            except (ServiceUnavailableError, RetryableError) as error:
                # Said once, and not each second until the service is back.
                level = logging.WARNING if self._waits_since is None else logging.DEBUG
                self._waits_since = self._waits_since or time.monotonic()
                logger.log(level, "timer waits for a service", extra={"timer": self.name, "reason": str(error)})
            except Exception as error:  # noqa: BLE001 - a timer goes on whatever happens
                self._tell(error)
            rest_s = min(self._every_s, self._pace.rest_after(time.thread_time() - started))
            if not self._over.wait(rest_s):  # `end` may have come before `woken` was cleared
                self._woken.wait(self._every_s - rest_s)

    def _tell(self, error: Exception) -> None:
        """Log an error, with its traceback; the same one again only once a minute: a full disk must not get fuller."""
        said, now = (type(error), str(error)), time.monotonic()
        if said == self._failed[0] and now - self._failed[1] < _SAID_EVERY_S:
            return
        self._failed = (said, now)
        logger.error("timer failed", exc_info=error, extra={"timer": self.name})

    def end(self) -> None:
        self._over.set()
        self._woken.set()


class _Pace:
    """Lets a timer that is woken again and again have a tenth of a core, after a burst at once."""

    _SHARE = 0.1
    _BURST_S = 0.2

    def __init__(self) -> None:
        self._left_s = self._BURST_S
        self._counted_at = time.monotonic()

    def rest_after(self, work_s: float) -> float:
        """Count so much time of a core, and return how long to rest before more."""
        now = time.monotonic()
        earned = (now - self._counted_at) * self._SHARE
        self._left_s, self._counted_at = min(self._BURST_S, self._left_s + earned - work_s), now
        return max(0.0, -self._left_s / self._SHARE)


class Timers:
    """The timer threads of one process."""

    def __init__(
        self,
        app: Celery,
        settings: Settings,
        *,
        reports: Sequence[WorkerReport] = (),
        dispatch: bool,
        sweep: bool = False,
        subscriptions: Sequence[QueueSubscription] = (),
        watchdog: Watchdog | None = None,
        trust_leases_at_once: bool = False,
        database: Database | None = None,
        owns_database: bool = False,
        stopping: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._app = app
        self._settings = settings
        self._database = database or Database(settings.effective_database_url)
        self._owns_database = owns_database or database is None
        self._reports = reports
        self._stopping = stopping
        self._dispatcher = Dispatcher(app, self._database, settings)
        self._dispatched_at = time.monotonic()
        self._quiet_until = 0.0 if trust_leases_at_once else time.monotonic() + settings.worker.lease_s
        self._timers: list[_Timer | Listener] = [_Timer("report", REPORT_S, self._report)] if reports else []
        if dispatch:
            woken = self._database.notifier.woken
            self._timers.append(_Timer("dispatch", settings.worker.dispatch_s, self._dispatch, woken=woken))
            if not self._database.is_sqlite:
                self._timers.append(Listener(self._database, settings.database_listen_url))
            self._timers.append(_Timer("reconcile", settings.worker.reconcile_s, self._reconcile))
            alerts = Alerts(self._database, settings.effective_presets_dir)
            self._timers.append(_Timer("alerts", POLL_S, alerts.poll))
            self._timers.append(_Timer("totals", FOLD_S, self._fold))
        self.watchdog = watchdog
        if watchdog is not None:
            self._timers.append(_Timer("watchdog", POLL_WORKER_S, watchdog.poll))
        self._timers += [
            _Timer("queue subscription", settings.worker.dispatch_s, subscription.poll)
            for subscription in subscriptions
        ]
        if sweep:
            self._timers.append(_Timer("sweep", SWEEP_S, self._sweep))

    @classmethod
    def of_worker(
        cls,
        app: Celery,
        settings: Settings,
        *,
        name: str,
        queues: Sequence[str],
        slots: int,
        memory_bytes: int | None,
        stopping: Callable[[], float | None],
        consumer: Callable[[], Any],
    ) -> Timers:
        """The loops of a cluster's worker.

        An io worker dispatches, one with an encode queue sweeps its hand-off, one with a GPU subscribes its
        ``consumer`` to the queue of its preset.
        """
        report = worker_report(name, queues, slots=slots, memory_bytes=memory_bytes)
        database = Database(settings.effective_database_url)
        subscriptions = []
        if report.gpu_type is not None:
            subscription = QueueSubscription(
                app, database, name=name, gpu_type=report.gpu_type, consumer=consumer, stopping=stopping
            )
            subscriptions.append(subscription)
        return cls(
            app,
            settings,
            reports=[report],
            subscriptions=subscriptions,
            watchdog=Watchdog(
                database,
                name=name,
                queues=lambda: {*queues, *app.amqp.queues.consume_from},
                busy=lambda: bool(worker_state.active_requests),
                stopping=stopping,
                silence_s=settings.worker.silence_s,
            ),
            database=database,
            owns_database=True,
            dispatch=IO_QUEUE in queues,
            sweep=any(is_encode_queue(queue) for queue in queues),
            stopping=stopping,
        )

    def start(self) -> None:
        for timer in self._timers:
            timer.start()

    def stop(self) -> None:
        """End the threads, and take the reported workers out of the table."""
        for timer in self._timers:
            timer.end()
        for timer in self._timers:
            if timer.is_alive():
                timer.join(timeout=10)
        try:
            with self._database.transaction() as session:
                for report in self._reports:
                    workers.leave(session, report.name)
        except ServiceUnavailableError:
            logger.warning("workers not signed off: the database is unreachable")
        if self._owns_database:
            self._database.close()

    def _report(self) -> None:
        with self._database.transaction() as session:
            for report in self._reports:
                idle_s = time.monotonic() - self._dispatched_at
                if report.name.startswith(f"{DISPATCHER}-") and idle_s > workers.ALIVE_MS / 1000:
                    continue  # a dispatcher that no longer dispatches must not look alive
                workers.report(session, replace(report, draining=self._stopping() is not None))

    def _dispatch(self) -> None:
        if self._stopping() is None:
            while self._dispatcher.poll() is None:  # another is at it, and may miss what was left waiting since
                time.sleep(random.uniform(*_REPEAT_S))
            self._dispatched_at = time.monotonic()

    def _reconcile(self) -> None:
        try:
            reconcile_once(self._app, self._database, end_leases=time.monotonic() >= self._quiet_until)
        except ServiceUnavailableError:
            # Workers could not renew either: give them one whole lease before any is ended.
            self._quiet_until = time.monotonic() + self._settings.worker.lease_s + self._settings.worker.reconcile_s
            raise

    def _fold(self) -> None:
        """Move what was measured into the totals, a page a transaction."""
        while True:
            with self._database.transaction() as session:
                if not totals.fold(session, self._settings.prices):
                    return

    def _sweep(self) -> None:
        handoff = Handoff.open(self._settings.effective_handoff_dir, self._settings.handoff_bytes)
        sweep_handoff(self._database, handoff, older_than_s=SWEEP_S)
        if self._settings.solo:  # where no beat asks for it
            sweep_if_due(self._database, lambda: make_storage(self._settings), self._settings)


def worker_report(name: str, queues: Sequence[str], *, slots: int = 1, memory_bytes: int | None = None) -> WorkerReport:
    """The report of this process's worker."""
    gpu_type = next((kind for queue in queues if (kind := gpu_type_of(queue))), None)
    return WorkerReport(
        name=name,
        host=socket.gethostname(),
        pid=os.getpid(),
        queues=tuple(queues),
        slots=slots,
        gpu_type=gpu_type,
        memory_bytes=memory_bytes,
    )
