"""Connects a stage, which makes checkpoints, with the rows that refer to them."""

import logging
from collections.abc import Sequence

from db.clips import checkpoints
from pipeline.errors import VgenError
from pipeline.work import CheckpointRef, Claim
from tasks.worker.context import WorkerContext

logger = logging.getLogger(__name__)


class ClaimedRows:
    """The rows of one claimed step; a ``CheckpointRecorder``. Each call is one short transaction of its own."""

    def __init__(self, runtime: WorkerContext, claimed: Claim) -> None:
        self._runtime = runtime
        self._claimed = claimed

    def record(self, saved: CheckpointRef) -> tuple[str, ...] | None:
        with self._runtime.database.transaction() as session:
            return checkpoints.record(session, self._claimed, saved)

    def discard(self, reason: str) -> tuple[str, ...]:
        with self._runtime.database.transaction() as session:
            return checkpoints.discard(session, self._claimed, reason)


def remove_objects(runtime: WorkerContext, keys: Sequence[str]) -> None:
    """Delete what no row points at any more; what cannot be deleted now is the sweeper's."""
    for key in keys:
        try:
            runtime.storage.delete(key)
        except VgenError as error:
            logger.warning("checkpoint not removed", extra={"key": key, "reason": str(error)})
