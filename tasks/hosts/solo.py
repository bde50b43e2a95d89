"""Solo mode: Celery workers as threads of one process over an in-memory broker, with a child per GPU.

The broker is lost with the process, which loses nothing: rows are the truth, and the next run takes them up.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from celery import Celery
from celery.worker import state as worker_state

from db.session import Database
from pipeline.errors import FatalError
from pipeline.handoff import Handoff
from pipeline.models.gpus import find_gpus
from pipeline.policy.routes import CPU_QUEUE, IO_QUEUE, encode_queue, encode_slots, gpu_queue
from pipeline.settings import Settings
from pipeline.wiring import StageModels
from tasks.app import make_app
from tasks.node_name import new_node_name
from tasks.upkeep.queue_subscription import QueueSubscription
from tasks.upkeep.reconciler import sweep_handoff, take_over_home
from tasks.upkeep.timers import Timers, worker_report
from tasks.worker import contexts
from tasks.worker.context import WorkerContext

logger = logging.getLogger(__name__)

_EX_OK = 0
_DISPATCH_S = 0.1
"""Nothing but this process waits for the dispatcher, and a poll of SQLite is cheap."""


@dataclass(frozen=True, slots=True)
class _Role:
    """One in-process worker."""

    name: str
    queues: Sequence[str]
    device_env: Mapping[str, str] | None = None
    memory_bytes: int | None = None


class SoloLine:
    """Works off everything that waits, while the block lasts. The home's lock must be held.

    ``error`` holds what ended the line itself; failed jobs are not errors of the line.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        worker = settings.worker.model_copy(update={"dispatch_s": min(_DISPATCH_S, settings.worker.dispatch_s)})
        self._settings = settings.model_copy(update={"worker": worker})
        self._database = database
        self._models = StageModels(self._settings)
        """Shared by all workers: they are one process, and have one GPU's memory between them."""
        self._stop_since: float | None = None
        self._runtimes: list[WorkerContext] = []
        self._threads: list[_WorkerThread] = []
        self._loops: Timers | None = None

    @property
    def error(self) -> BaseException | None:
        """The error that killed one of the workers, if any."""
        return next((thread.error for thread in self._threads if thread.error is not None), None)

    def __enter__(self) -> Self:
        handoff = Handoff.open(self._settings.effective_handoff_dir, self._settings.handoff_bytes)
        take_over_home(self._database)
        sweep_handoff(self._database, handoff, older_than_s=0)
        roles = _roles(self._settings, handoff)
        for role in roles:
            runtime = WorkerContext(
                new_node_name(role.name),
                self._settings,
                queues=role.queues,
                stopping=lambda: self._stop_since,
                database=self._database,
                models=self._models,
                device_env=role.device_env,
            )
            self._runtimes.append(runtime)
            self._threads.append(_WorkerThread(runtime))
        for thread in self._threads:
            thread.start()
        for runtime in self._runtimes:
            if runtime.model_loader is not None:
                runtime.model_loader.start()
            if runtime.prefetcher is not None:
                runtime.prefetcher.start()
        self._loops = Timers(
            make_app(),
            self._settings,
            reports=[
                worker_report(runtime.name, runtime.queues, memory_bytes=role.memory_bytes)
                for runtime, role in zip(self._runtimes, roles, strict=True)
            ],
            dispatch=True,
            sweep=True,
            subscriptions=[
                subscription
                for thread in self._threads
                if (subscription := thread.subscription(self._database)) is not None
            ],
            trust_leases_at_once=True,
            database=self._database,
            stopping=lambda: self._stop_since,
        )
        self._loops.start()
        return self

    def request_stop(self, *, now: bool = False) -> None:
        """Take no new work; what runs may end within the grace time, or with ``now`` stops at its next step."""
        grace = self._settings.worker.grace_s if now else 0.0
        self._stop_since = time.monotonic() - grace

    def __exit__(self, *_: object) -> None:
        self.request_stop(now=True)
        # Celery's flag is one for the process, and all its workers are ours.
        worker_state.should_stop = _EX_OK
        for thread in self._threads:
            thread.join(timeout=self._settings.worker.grace_s + 10)
        worker_state.should_stop = None
        if self._loops is not None:
            self._loops.stop()
        for thread in self._threads:
            contexts.drop(thread.app)
        self._models.close()


def _roles(settings: Settings, handoff: Handoff) -> list[_Role]:
    gpus = [
        _Role(f"gpu{gpu.index}", [gpu_queue(gpu.type)], gpu.device_env, gpu.memory_bytes or None)
        for gpu in find_gpus(settings.gpu_type, settings.gpu_count, settings.gpus_per_worker)
    ]
    frames = encode_queue(handoff.id)
    # A second GPU's clips are encoded beside the first's, as far as the cores reach.
    more = min(len(gpus), encode_slots(os.cpu_count() or 1, settings.encode.threads)) - 1
    encoders = [_Role(f"encode{number}", [frames]) for number in range(1, more + 1)]
    return [*gpus, _Role("cpu", [CPU_QUEUE, frames]), *encoders, _Role("io", [IO_QUEUE])]


class _WorkerThread(threading.Thread):
    """One Celery worker with the solo pool."""

    def __init__(self, runtime: WorkerContext) -> None:
        super().__init__(name=runtime.name, daemon=True)
        self.error: BaseException | None = None
        self.app: Celery = make_app()
        contexts.adopt(self.app, runtime)
        self._runtime = runtime
        self._controller: Any = self.app.WorkController(
            hostname=runtime.name,
            pool="solo",
            concurrency=1,
            queues=list(runtime.queues),
            without_mingle=True,
            without_gossip=True,
            without_heartbeat=True,
            task_events=False,
            loglevel="ERROR",
        )

    def subscription(self, database: Database) -> QueueSubscription | None:
        """The subscription of this worker to its preset's queue; None for one without a GPU."""
        if self._runtime.gpu_type is None:
            return None
        return QueueSubscription(
            self.app,
            database,
            name=self._runtime.name,
            gpu_type=self._runtime.gpu_type,
            consumer=lambda: self._controller.consumer,
            stopping=self._runtime.stopping,
            at_once=True,
        )

    def run(self) -> None:
        self.app.set_current()  # Celery looks tasks up in the thread's current application
        try:
            self._controller.start()
        except BaseException as error:  # told to the run, which ends by it
            if not isinstance(error, SystemExit):
                self.error = error
                logger.exception("worker ended", extra={"worker": self._runtime.name})
        # Celery swallows what ends a consumer for good: a worker that nobody asked to stop has died all the same.
        if self.error is None and self._runtime.stopping() is None:
            self.error = FatalError(f"worker {self._runtime.name} ended by itself", code="worker_ended")
