"""Distinguishes a broken worker, on which different jobs crash, from broken jobs; only the first drains."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from db.clips import batches
from pipeline.errors import CrashError, FatalError, ServiceUnavailableError, StageError
from pipeline.policy.retry import MAX_IN_A_ROW
from pipeline.work import Claim

if TYPE_CHECKING:
    from tasks.worker.context import WorkerContext

logger = logging.getLogger(__name__)


class CrashStreak:
    """The different jobs whose generator died on this worker in a row, each with what may be the cause."""

    def __init__(self) -> None:
        self._causes: dict[str, frozenset[str]] = {}

    def __len__(self) -> int:
        return len(self._causes)

    @property
    def jobs(self) -> list[str]:
        return list(self._causes)

    def add(self, job_id: str, causes: frozenset[str]) -> None:
        self._causes[job_id] = causes

    def clear(self) -> None:
        self._causes.clear()

    @property
    def independent(self) -> int:
        """Count the groups of jobs, where jobs that have a possible cause in common are in one group."""
        groups: list[frozenset[str]] = []
        for causes in self._causes.values():
            joined = [group for group in groups if group & causes]
            groups = [group for group in groups if not group & causes] + [causes.union(*joined)]
        return len(groups)


def is_broken(runtime: WorkerContext, claimed: Claim, check: Callable[[], None]) -> bool:
    """Return whether this worker must drain, after one more job's generator died here.

    Jobs of one batch, owner, LoRA or input may all be the same poison. So where fewer than three share nothing, a
    clip that is known to be good says whether the worker can still make one. ``check`` raises when the step is to stop.
    """
    streak = runtime.crashes
    streak.add(claimed.work.job_id, _possible_causes(runtime, claimed))
    # A solo run has no other GPU: there every job uses up its own tries.
    if len(streak) < MAX_IN_A_ROW or runtime.settings.solo:
        return False
    if streak.independent >= MAX_IN_A_ROW:
        return True
    from tasks.worker.trial_clip import make_trial_clip  # noqa: PLC0415 - it loads an encoder, and is needed hardly ever

    try:
        make_trial_clip(runtime, claimed.work.spec.preset, check)
    except (CrashError, FatalError) as error:
        logger.warning("trial clip failed", extra={"worker": runtime.name, "reason": str(error)})
        return True
    except StageError as error:  # stopped, or nothing that says anything of the GPU
        logger.info("no trial clip", extra={"worker": runtime.name, "reason": str(error)})
        return False
    logger.warning("jobs crash on a sound worker", extra={"worker": runtime.name, "jobs": streak.jobs})
    streak.clear()
    return False


def _possible_causes(runtime: WorkerContext, claimed: Claim) -> frozenset[str]:
    """Return what other jobs may have in common with the step's: batch, owner, and each of its files by content."""
    work = claimed.work
    causes = {f"batch {work.batch_id}", *(f"input {ref.sha256}" for ref in work.spec.input_refs)}
    try:
        with runtime.database.reading() as session:
            causes.add(f"owner {batches.get(session, work.batch_id).owner}")
    except ServiceUnavailableError as error:  # then fewer jobs are known to belong together
        logger.warning("owner not known", extra={"job_id": work.job_id, "reason": str(error)})
    return frozenset(causes)
