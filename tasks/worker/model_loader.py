"""A GPU worker in its lane: it loads the preset that its row names, and reads that lane's queue once it is warm.

Two parts, which know of each other by the row only, since in a cluster they live in two processes: ``ModelLoader`` is a
thread beside the tasks, where the generator is; ``QueueSubscription`` is a timer of the process that has the consumer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from db.scheduling import residency
from db.scheduling.residency import Place
from db.session import Database
from pipeline.errors import FailureClass, NotFoundError, ServiceUnavailableError, StageError, StoppedError, VgenError
from pipeline.generators.base import Progress
from pipeline.policy.routes import preset_queue, preset_slug
from pipeline.presets import load_library
from pipeline.settings import Settings
from tasks.worker.generator import SharedGenerator

logger = logging.getLogger(__name__)

LOAD_TRIES = 2
"""So often a preset is loaded before the worker gives it up for ten minutes; once, where it can never work."""
IDLE_POLL_FACTOR = 2
"""A worker that serves its lane looks at its row so many times less often than one that is on its way to another: a
change that it sees a look late costs a model's load anyway."""


class ModelLoader(threading.Thread):
    """Has the generator hold the preset that the dispatcher gave this worker, and says in the row what it holds."""

    def __init__(
        self,
        name: str,
        gpu_type: str,
        settings: Settings,
        *,
        database: Callable[[], Database],
        resident: Callable[[], SharedGenerator],
        stopping: Callable[[], float | None],
    ) -> None:
        super().__init__(name=f"lane of {name}", daemon=True)
        self._worker = name
        self._gpu_type = gpu_type
        self._settings = settings
        self._database = database
        self._resident = resident
        self._stopping = stopping
        self._place: Place | None = None
        self._tries: dict[str, int] = {}
        self._over = threading.Event()

    def end(self) -> None:
        """Load nothing more. A load that is under way ends with the generator."""
        self._over.set()

    def queues(self) -> list[str]:
        """The lanes whose messages this worker may claim: its own, and that of what it holds.

        Raises:
            ServiceUnavailableError: it has never seen its row, and the database is away.
        """
        place = self._place or self._look()
        lanes = {place.lane if place else None, self._held()}
        return sorted(preset_queue(self._gpu_type, lane) for lane in lanes if lane is not None)

    def run(self) -> None:
        while not self._over.is_set():
            settled = False
            try:
                settled = self._tick()
            except ServiceUnavailableError as error:
                logger.warning("lane not kept: the database is away", extra={"reason": str(error)})
            except Exception:
                logger.exception("lane not kept")
            self._over.wait(self._settings.worker.dispatch_s * (IDLE_POLL_FACTOR if settled else 1))

    def _held(self) -> str | None:
        preset = self._resident().held()
        return None if preset is None else preset_slug(preset)

    def _look(self) -> Place | None:
        with self._database().reading() as session:
            self._place = residency.place(session, self._worker)
        return self._place

    def _tick(self) -> bool:
        """Do what the row asks for; whether it asked for nothing."""
        place, held = self._look(), self._held()
        if place is None or self._stopping() is not None:
            return False
        if held != place.loaded:
            self._tell(held)
        if place.lane is not None and held != place.lane and not (place.failed or place.draining):
            self._load(place.lane)
            if (now := self._held()) != held:
                self._tell(now)
        return held is not None and held == place.loaded == place.lane

    def _tell(self, held: str | None) -> None:
        with self._database().transaction() as session:
            residency.set_loaded(session, self._worker, held)

    def _load(self, lane: str) -> None:
        try:
            self._resident().load(self._preset_of(lane), self._on_progress)
        except StoppedError:
            return
        except VgenError as error:
            self._failed(lane, error)
        else:
            self._tries.clear()

    def _preset_of(self, lane: str) -> str:
        library = load_library(self._settings.effective_presets_dir)
        for preset in (*library.presets, *library.problems):
            if preset_slug(preset) == lane:
                return preset
        raise NotFoundError(f"preset {library.explain(lane)}")

    def _on_progress(self, progress: Progress) -> None:
        if self._over.is_set() or self._stopping() is not None:
            raise StoppedError("the worker stops")

    def _failed(self, lane: str, error: VgenError) -> None:
        if self._over.is_set() or self._stopping() is not None:
            return  # the generator was ended under it
        self._tries[lane] = self._tries.get(lane, 0) + 1
        never = not isinstance(error, StageError) or error.failure_class is FailureClass.REFUSED
        logger.error("preset not loaded", extra={"lane": lane, "code": error.code, "tries": self._tries[lane]})
        if never or self._tries[lane] >= LOAD_TRIES:
            with self._database().transaction() as session:
                residency.record_failed_load(session, self._worker, lane, code=error.code, error=str(error))
            self._tries.clear()
