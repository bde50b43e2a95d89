"""Keeps a running step's lease: renews it, and asks the stage to stop when it must."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Self

from db.queue import leases
from db.queue.leases import Control
from pipeline.errors import ServiceUnavailableError, StoppedError
from pipeline.generators.base import Phase, Progress
from pipeline.states import Stage
from pipeline.work import AnyClaim, Claim
from tasks.worker.context import WorkerContext

logger = logging.getLogger(__name__)

STORE_S = 5.0
"""Enough to write and upload a checkpoint: some 100 MB at 20 MB/s."""


class LeaseKeeper:
    """Renews the lease of one claimed step while its stage works, and learns of cancel, pause and drain.

    A database that is away stops nothing: the work goes on, and the finish waits for it.
    """

    def __init__(self, runtime: WorkerContext, claimed: AnyClaim) -> None:
        self._runtime = runtime
        self._claimed = claimed
        self._progress: Progress | None = None
        self._recorded: Progress | None = None
        self._renewed_at = time.monotonic()  # the claim itself
        self._reason: str | None = None
        self._keep = True
        self._progressed_at = time.monotonic()
        self._longest_step_s = 0.0

    def on_progress(self, progress: Progress) -> None:
        """Note the progress of the stage. Raises StoppedError when the step is to stop."""
        now = time.monotonic()
        if progress.phase is Phase.DENOISE and progress.step > 1:
            self._longest_step_s = max(self._longest_step_s, now - self._progressed_at)
        self._progress, self._progressed_at = progress, now
        self.check()

    def check(self) -> None:
        """Raises StoppedError when the step is to stop."""
        if self._reason is not None:
            raise StoppedError(self._reason, keep=self._keep)

    def __enter__(self) -> Self:
        self._runtime.lease_timer.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runtime.lease_timer.remove(self)

    def renew_or_stop(self) -> None:
        """Renew the lease, or note why the step has to stop; the lease timer calls this each second or so."""
        if self._runtime.must_stop_now(self._reserve_s()):
            self._reason = self._reason or "the worker stops"
        try:
            self._renew_or_check()
        except ServiceUnavailableError as error:
            logger.warning("lease not renewed", extra={"reason": str(error)})
        except Exception:
            logger.exception("lease not renewed")

    def _reserve_s(self) -> float:
        """Seconds of the grace time that a clip needs to end its step and to store its checkpoint."""
        if not isinstance(self._claimed, Claim) or self._claimed.work.stage is not Stage.GENERATE:
            return 0.0
        return min(self._runtime.settings.worker.grace_s / 2, STORE_S + self._longest_step_s)

    def _renew_or_check(self) -> None:
        """Renew when it is time or there is progress to record; else only check whether to stop."""
        worker, progress = self._runtime.settings.worker, self._progress
        if progress == self._recorded and time.monotonic() - self._renewed_at < worker.renew_s:
            with self._runtime.database.reading() as session:
                self._apply(leases.check_control(session, self._claimed))
            return
        with self._runtime.database.transaction() as session:
            control = leases.renew(
                session,
                self._claimed,
                lease_ms=int(worker.lease_s * 1000),
                phase=progress.phase.value if progress else None,
                step=progress.step if progress else 0,
                total=progress.total if progress else 0,
            )
        self._renewed_at, self._recorded = time.monotonic(), progress
        self._apply(control)

    def _apply(self, control: Control) -> None:
        if not control.held:
            self._reason, self._keep = "lease lost", False
        elif control.cancel:
            self._reason, self._keep = "cancelled", False
        elif control.pause:
            self._reason = "paused"
