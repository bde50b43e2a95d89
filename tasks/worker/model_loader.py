"""Loads the preset that a GPU worker's row assigns, and subscribes to its queue once the model is warm.

Two parts share only the row, since in a cluster they run in two processes: ``ModelLoader`` is a thread of the process
that has the generator; ``QueueSubscription`` is a timer of the process that has the consumer.
"""

import logging
import threading
from collections.abc import Callable

from db.scheduling import worker_presets
from db.scheduling.worker_presets import Residency
from db.session import Database
from pipeline.errors import FailureClass, NotFoundError, ServiceUnavailableError, StageError, StoppedError, VgenError
from pipeline.generators.base import PHASE_MEANING, Progress
from pipeline.policy.routes import preset_queue, preset_slug
from pipeline.presets import load_library
from pipeline.settings import Settings
from tasks.worker.announcements import announce, role_of
from tasks.worker.generator import SharedGenerator

logger = logging.getLogger(__name__)

LOAD_TRIES = 2
"""A preset is tried so often before the worker gives it up for ten minutes; once, where it can never work."""
IDLE_POLL_FACTOR = 2
"""A worker that serves its preset polls its row so many times less often than one that is still loading: a change that
it sees one poll late costs a model's load anyway."""


class ModelLoader(threading.Thread):
    """Loads the preset that the dispatcher assigned to this worker, and records in the row what the generator holds."""

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
        super().__init__(name=f"model loader of {name}", daemon=True)
        self._worker = name
        self._gpu_type = gpu_type
        self._settings = settings
        self._database = database
        self._resident = resident
        self._stopping = stopping
        self._row: Residency | None = None
        self._tries: dict[str, int] = {}
        self._over = threading.Event()

    def end(self) -> None:
        """Load nothing more. A load that is under way ends with the generator."""
        self._over.set()

    def queues(self) -> list[str]:
        """The preset queues whose messages this worker may claim: that of its assigned preset, and of the one it holds.

        Raises:
            ServiceUnavailableError: it has never seen its row, and the database is away.
        """
        row = self._row or self._read_row()
        presets = {row.assigned_preset if row else None, self._loaded()}
        return sorted(preset_queue(self._gpu_type, preset) for preset in presets if preset is not None)

    def run(self) -> None:
        while not self._over.is_set():
            idle = False
            try:
                idle = self._tick()
            except ServiceUnavailableError as error:
                logger.warning("preset not loaded: the database is unreachable", extra={"reason": str(error)})
            except Exception:
                logger.exception("preset not loaded")
            self._over.wait(self._settings.worker.dispatch_s * (IDLE_POLL_FACTOR if idle else 1))

    def _loaded(self) -> str | None:
        preset = self._resident().held()
        return None if preset is None else preset_slug(preset)

    def _read_row(self) -> Residency | None:
        with self._database().reading() as session:
            self._row = worker_presets.of_worker(session, self._worker)
        return self._row

    def _tick(self) -> bool:
        """Do what the row asks for, and return whether it asked for nothing."""
        row, loaded = self._read_row(), self._loaded()
        if row is None or self._stopping() is not None:
            return False
        if loaded != row.loaded:
            self._record(loaded)
        assigned = row.assigned_preset
        if assigned is not None and loaded != assigned and not (row.failed or row.draining):
            self._load(assigned)
            if (now := self._loaded()) != loaded:
                self._record(now)
        return loaded is not None and loaded == row.loaded == assigned

    def _record(self, loaded: str | None) -> None:
        with self._database().transaction() as session:
            worker_presets.set_loaded(session, self._worker, loaded)

    def _load(self, slug: str) -> None:
        phase = ""

        def on_progress(progress: Progress) -> None:
            nonlocal phase
            if progress.phase != phase:
                phase = progress.phase
                announce(f"{role_of(self._worker)}: {PHASE_MEANING[progress.phase]}", preset=slug)
            self._on_progress(progress)

        try:
            self._resident().load(self._preset_of(slug), on_progress)
        except StoppedError:
            return
        except VgenError as error:
            self._failed(slug, error)
        else:
            self._tries.clear()

    def _preset_of(self, slug: str) -> str:
        library = load_library(self._settings.effective_presets_dir)
        for preset in (*library.presets, *library.problems):
            if preset_slug(preset) == slug:
                return preset
        raise NotFoundError(f"preset {library.explain(slug)}")

    def _on_progress(self, progress: Progress) -> None:
        if self._over.is_set() or self._stopping() is not None:
            raise StoppedError("the worker stops")

    def _failed(self, slug: str, error: VgenError) -> None:
        if self._over.is_set() or self._stopping() is not None:
            return  # the generator was ended under it
        self._tries[slug] = self._tries.get(slug, 0) + 1
        never = not isinstance(error, StageError) or error.failure_class is FailureClass.REFUSED
        facts = {"preset": slug, "code": error.code, "reason": str(error), "tries": self._tries[slug]}
        logger.error("preset not loaded", extra=facts)
        if never or self._tries[slug] >= LOAD_TRIES:
            with self._database().transaction() as session:
                worker_presets.record_failed_load(session, self._worker, slug, code=error.code, error=str(error))
            self._tries.clear()
