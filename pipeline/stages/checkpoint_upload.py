"""Keeping a running clip's checkpoints: fetched before it begins, stored while it goes on.

The generator's child writes a file beside the frames and goes on at once; a thread uploads it and has it written down.
What is stored is never changed: a newer state is another object, and the older one goes when the row points elsewhere.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline import failpoints
from pipeline.errors import NotFoundError, RetryableError, ServiceUnavailableError, VgenError
from pipeline.generators.base import SavedCheckpoint
from pipeline.work import CheckpointRef, StageContext, StepWork

logger = logging.getLogger(__name__)

FINAL_PATIENCE_S = 30.0
"""The time for which an absent store or database is retried for the state after the last step. Then the clip goes on
without: its frames are made, and are lost only if their host is too before they are encoded."""
_PAUSE_S = 1.0
_MEDIA_TYPE = "application/octet-stream"


def checkpoint_key(work: StepWork, step: int, sha256: str) -> str:
    """Return where a state lies in the store; another state never does."""
    return f"checkpoints/{work.job_id}/{work.roll}-{work.segment}-{step}-{sha256}.safetensors"


class ClipCheckpoints:
    """The checkpoints of one attempt; ``facts`` is what the step's output says of them."""

    def __init__(self, work: StepWork, context: StageContext, *, patience_s: float = FINAL_PATIENCE_S) -> None:
        self._work = work
        self._storage = context.storage
        self._rows = context.checkpoints
        self._patience_s = patience_s
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"checkpoints-{work.job_id}")
        self._waiting: tuple[SavedCheckpoint, Future[None]] | None = None
        self.facts: dict[str, Any] = {}

    @property
    def wanted(self) -> bool:
        """Return whether anybody would find a checkpoint again."""
        return self._rows is not None

    def fetch(self, path: Path) -> Path | None:
        """The state to go on from, as a file at ``path``; None when there is none, or it is gone or damaged.

        Raises:
            RetryableError, RefusedError: the store cannot be reached, or will not answer.
        """
        checkpoint = self._work.checkpoint
        if checkpoint is None or self._rows is None:
            return None
        try:
            self._storage.download(checkpoint.key, path)
        except NotFoundError:
            self.unusable(f"{checkpoint.key} is not in the store")
            return None
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 != checkpoint.sha256:
            self.unusable(f"{checkpoint.key} has sha256 {sha256}, expected {checkpoint.sha256}")
            path.unlink()
            return None
        return path

    def unusable(self, reason: str) -> None:
        """The state cannot be gone on from: no later attempt is to try it again."""
        self.facts["checkpoint_unusable"] = reason
        logger.warning("checkpoint unusable", extra={"job_id": self._work.job_id, "reason": reason})
        self._executor.submit(self._guarded, "discarded", self._discard, reason)

    def saved(self, checkpoint: SavedCheckpoint) -> None:
        """Have a state stored; one that still waits for its turn is overtaken."""
        if self._waiting is not None and self._waiting[1].cancel():
            self._waiting[0].path.unlink(missing_ok=True)
        self._waiting = checkpoint, self._executor.submit(self._keep, checkpoint)

    def finish(self) -> None:
        """Wait until what was saved is stored and written down."""
        self._executor.shutdown()

    def abandon(self) -> None:
        """Nobody will want what was saved: do not wait for it."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _keep(self, checkpoint: SavedCheckpoint) -> None:
        try:
            if not self._guarded("kept", self._store, checkpoint) and checkpoint.final:
                self.facts["final_checkpoint"] = "not kept"
        finally:
            checkpoint.path.unlink(missing_ok=True)

    def _store(self, checkpoint: SavedCheckpoint) -> None:
        assert self._rows is not None
        key = checkpoint_key(self._work, checkpoint.step, checkpoint.sha256)
        saved = CheckpointRef(
            checkpoint.step, checkpoint.total, key, checkpoint.sha256, checkpoint.size, checkpoint.numerics
        )
        give_up = time.monotonic() + (self._patience_s if checkpoint.final else 0.0)
        while True:
            try:
                failpoints.hit("checkpoint_upload")
                self._storage.put_file(key, checkpoint.path, sha256=checkpoint.sha256, content_type=_MEDIA_TYPE)
                replaced = self._rows.record(saved)
                break
            except (RetryableError, ServiceUnavailableError):
                if time.monotonic() + _PAUSE_S >= give_up:
                    raise
                time.sleep(_PAUSE_S)
        # None: the attempt was fenced. Its object stays for the sweeper: the attempt that holds the step now may have
        # stored the same bytes under the same key.
        for old in replaced or ():
            self._storage.delete(old)

    def _discard(self, reason: str) -> None:
        assert self._rows is not None
        for key in self._rows.discard(reason):
            self._storage.delete(key)

    def _guarded(self, action: str, act: Callable[[Any], None], value: Any) -> bool:
        """A checkpoint that cannot be handled costs a later attempt time, never this one."""
        try:
            act(value)
        except VgenError as error:
            logger.warning(f"checkpoint not {action}", extra={"job_id": self._work.job_id, "reason": str(error)})
            return False
        except Exception:
            logger.exception(f"checkpoint not {action}", extra={"job_id": self._work.job_id})
            return False
        return True
