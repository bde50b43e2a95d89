"""The published clips of a batch, as scorers are given them."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import ArtifactRow, Job, Score
from db.queue.leases import spec_of
from pipeline.states import JobState
from pipeline.work import StoredClip


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
