"""The published clips of a batch, in the form that scorers take."""

import sys
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import ArtifactRow, EvalRun, Job, Score
from db.queue.leases import spec_of
from pipeline.states import JobState
from pipeline.work import ReferenceClip, StoredClip

REFERENCE = "reference"
"""The key of a run's suite that holds the id of the run whose clips its own are compared with."""


def published(session: Session, batch_id: str, first: int, last: int) -> tuple[StoredClip, ...]:
    """The published clips of the jobs ``first`` to ``last`` of a batch, in order, with the scores that each has."""
    rows = session.execute(
        select(Job.id, Job.spec, ArtifactRow.roll, ArtifactRow.key, ArtifactRow.sha256)
        .join(ArtifactRow, (ArtifactRow.job_id == Job.id) & (ArtifactRow.kind == "video"))
        .where(Job.batch_id == batch_id, Job.seq.between(first, last), Job.state == JobState.SUCCEEDED)
        .order_by(Job.seq)
    ).all()
    scored: dict[str, set[tuple[str, str]]] = {}
    for row in session.execute(
        select(Score.job_id, Score.metric, Score.scorer_digest)
        .join(Job, (Job.id == Score.job_id) & (Job.roll == Score.roll))
        .where(Score.job_id.in_([row.id for row in rows]), Score.score.is_not(None))
    ):
        scored.setdefault(row.job_id, set()).add((row.metric, row.scorer_digest))
    clips = []
    for job_id, stored, roll, key, sha256 in rows:
        clips.append(StoredClip(job_id, roll, spec_of(stored, roll), key, sha256, frozenset(scored.get(job_id, ()))))
    return tuple(clips)


def with_references(
    session: Session, clips: Sequence[StoredClip], run_id: str, first: int, last: int
) -> tuple[StoredClip, ...]:
    """Give each clip the one that the run's batch has of the same entry and seed, where it has one.

    Batches of one suite have their jobs in one order, so that those of the same numbers are looked at first.
    """
    batch_id = session.scalars(select(EvalRun.batch_id).where(EvalRun.id == run_id)).one_or_none()
    if batch_id is None:
        return tuple(clips)
    references = _by_key(published(session, batch_id, first, last))
    if any(_key(clip) not in references for clip in clips):
        references = _by_key(published(session, batch_id, 0, sys.maxsize))
    return tuple(replace(clip, reference=references.get(_key(clip))) for clip in clips)


def _key(clip: StoredClip) -> tuple[int | None, int | None]:
    from pipeline.scoring.suite_jobs import entry_of  # noqa: PLC0415 - it brings numpy, for which --help need not wait

    entry = entry_of(clip.spec.labels)
    return (None if entry is None else entry.index, clip.spec.seed)


def _by_key(clips: Sequence[StoredClip]) -> dict[tuple[int | None, int | None], ReferenceClip]:
    """Reference clips by entry and seed; clips that belong to no entry of a suite are left out."""
    return {_key(clip): ReferenceClip(clip.key, clip.sha256) for clip in clips if _key(clip)[0] is not None}
