"""Prefetches the next clip's inputs and prompt while a GPU worker makes a clip; a hint, never a claim.

It changes no row and holds no lease. The next clip may go to another worker or be cancelled; then the hint has cost
time that nobody needed.
"""

import logging
import threading
from collections.abc import Callable, Sequence

from db.scheduling import lookahead
from db.session import Database
from pipeline.errors import VgenError
from pipeline.settings import Settings
from pipeline.stages.ahead import prefetch_inputs
from pipeline.stages.generate import prompt_of, segment_spec
from pipeline.storage.base import Storage
from tasks.worker.generator import SharedGenerator

logger = logging.getLogger(__name__)


class Prefetcher(threading.Thread):
    """Looks once for each clip that the generator makes."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        *,
        database: Callable[[], Database],
        storage: Callable[[], Storage],
        resident: SharedGenerator,
        queues: Callable[[], Sequence[str]],
    ) -> None:
        super().__init__(name=f"read-ahead of {name}", daemon=True)
        self._settings = settings
        self._database = database
        self._storage = storage
        self._resident = resident
        self._queues = queues
        self._looked_for: int | None = None
        self._over = threading.Event()

    def end(self) -> None:
        """Look no more."""
        self._over.set()

    def run(self) -> None:
        while not self._over.wait(self._settings.worker.control_s):
            try:
                self.poll()
            except (VgenError, OSError) as error:
                logger.info("not read ahead", extra={"reason": str(error)})
            except Exception:
                logger.exception("not read ahead")

    def poll(self) -> str | None:
        """Prepare for the clip that is likely next, once for each clip that is being made; the id of its job.

        Raises:
            VgenError, OSError: the database or the store is away, or the disk is full. It is not tried again.
        """
        making = self._resident.making
        if making is None or making == self._looked_for:
            return None
        with self._database().reading() as session:
            work = lookahead.likely_next(session, self._queues())
        if work is None:
            return None  # it may come before this clip is done
        self._looked_for = making
        spec = segment_spec(work)
        prefetch_inputs(spec, self._storage(), self._settings)
        if not work.spec.continues(work.segment):  # another pipeline may encode that one's
            self._resident.prepare(spec.preset, prompt_of(work), spec.negative_prompt)
        return work.job_id
