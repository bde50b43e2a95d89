"""One worker's database, store, hand-off folder and generator, created when first needed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from db.scheduling import worker_presets
from db.session import Database
from pipeline.errors import ServiceUnavailableError
from pipeline.generators.process.handle import GeneratorProcess, Load
from pipeline.handoff import Handoff
from pipeline.policy.routes import gpu_type_of
from pipeline.settings import Settings
from pipeline.storage.base import Storage
from pipeline.wiring import StageModels, make_storage
from tasks.worker.announcements import announce, role_of
from tasks.worker.crashes import CrashStreak
from tasks.worker.generator import SharedGenerator
from tasks.worker.lease_timer import LeaseTimer
from tasks.worker.model_loader import ModelLoader
from tasks.worker.overlap import Overlap

if TYPE_CHECKING:
    from tasks.worker.prefetch import Prefetcher

logger = logging.getLogger(__name__)


class WorkerContext:
    """The objects of one worker. ``stopping`` returns when (monotonic seconds) the worker began to stop, or None."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        *,
        queues: Sequence[str],
        stopping: Callable[[], float | None],
        database: Database | None = None,
        models: StageModels | None = None,
        device_env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.queues = tuple(queues)
        self.stopping = stopping
        self._database = database
        self._own_models = models is None
        self.models = models or StageModels(settings)
        self._device_env = device_env
        self.overlap = Overlap()
        """The hand-over of a clip, which goes on while the next one is made."""
        self.expected_frames_bytes = 0
        """Bytes of frames of the last clip that was claimed here: the next one's are guessed to be as many."""
        self.crashes = CrashStreak()

    @cached_property
    def database(self) -> Database:
        return self._database or Database(self.settings.effective_database_url)

    @cached_property
    def lease_timer(self) -> LeaseTimer:
        return LeaseTimer(self.settings.worker.control_s)

    @cached_property
    def storage(self) -> Storage:
        return make_storage(self.settings)

    @property
    def handoff(self) -> Handoff:
        # Opened each time: its folder may have been removed since.
        return Handoff.open(self.settings.effective_handoff_dir, self.settings.handoff_bytes)

    @property
    def gpu_type(self) -> str | None:
        """The type of the GPU that this worker serves; None for other workers."""
        return next((kind for queue in self.queues if (kind := gpu_type_of(queue))), None)

    @cached_property
    def generator(self) -> SharedGenerator | None:
        if self.gpu_type is None:
            return None
        process = GeneratorProcess(self.settings, device_env=self._device_env, on_recycled=self._on_recycled)
        return SharedGenerator(process, self._on_loaded)

    @cached_property
    def model_loader(self) -> ModelLoader | None:
        """The thread that loads the preset which the dispatcher assigned to this worker; the caller starts it."""
        if self.gpu_type is None or self.generator is None:
            return None
        resident = self.generator
        return ModelLoader(
            self.name,
            self.gpu_type,
            self.settings,
            database=lambda: self.database,
            resident=lambda: resident,
            stopping=self.stopping,
        )

    @cached_property
    def prefetcher(self) -> Prefetcher | None:
        """The thread that prepares the next clip while one is made; the caller starts it."""
        if self.generator is None or not self.settings.worker.read_ahead:
            return None
        from tasks.worker.prefetch import Prefetcher  # noqa: PLC0415 - it loads a stage that other workers have no use for

        return Prefetcher(
            self.name,
            self.settings,
            database=lambda: self.database,
            storage=lambda: self.storage,
            resident=self.generator,
            queues=lambda: self.claimable,
        )

    @property
    def claimable(self) -> tuple[str, ...]:
        """The queues whose steps this worker may claim. Raises ServiceUnavailableError."""
        return self.queues if self.model_loader is None else (*self.queues, *self.model_loader.queues())

    def _on_loaded(self, load: Load, was: str | None) -> None:
        source = "disk" if load.source == "disk" else "the host's memory"
        announce(f"{role_of(self.name)} holds {load.preset}: loaded from {source} in {load.seconds:.1f} s")
        try:
            with self.database.transaction() as session:
                worker_presets.record_load(
                    session, self.name, self.gpu_type, load.preset, load.seconds, source=load.source, was=was
                )
        except ServiceUnavailableError as error:
            logger.warning("load not recorded", extra={"preset": load.preset, "reason": str(error)})

    def _on_recycled(self, preset: str, reason: str) -> None:
        logger.warning("generator replaced", extra={"preset": preset, "reason": reason})
        try:
            with self.database.transaction() as session:
                worker_presets.record_recycled(session, self.name, self.gpu_type, preset, reason)
        except ServiceUnavailableError as error:
            logger.warning("replacement not recorded", extra={"preset": preset, "reason": str(error)})

    def must_stop_now(self, reserve_s: float = 0.0) -> bool:
        """Return True once a stopping worker's grace is over, or would be in ``reserve_s`` seconds."""
        since = self.stopping()
        return since is not None and time.monotonic() - since >= self.settings.worker.grace_s - reserve_s

    def close(self) -> None:
        """End the generator's process and the lease timer, and close the models and the database connections made here.

        A clip that is made is still handed over, within the grace time.
        """
        self.overlap.wait(self.settings.worker.grace_s)
        if "model_loader" in self.__dict__ and self.model_loader is not None:
            self.model_loader.end()
        if "prefetcher" in self.__dict__ and self.prefetcher is not None:
            self.prefetcher.end()
        if "lease_timer" in self.__dict__:
            self.lease_timer.close()
        if "generator" in self.__dict__ and self.generator is not None:
            self.generator.close()
        if self._own_models:
            self.models.close()
        if self._database is None and "database" in self.__dict__:
            self.database.close()
