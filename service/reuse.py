"""What of a file was made before: the jobs that a batch of the same file has made, or has yet to make."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.clips import batches
from db.models import Batch, Job
from pipeline.digests import canonical_json, sha256_hex
from pipeline.prompts import PlannedJob, Submission
from pipeline.spec import BatchOptions
from pipeline.states import JobState

_BATCHES = 50
_NOTICED_JOBS = 20_000
"""Larger files are compared when it is asked for only: that takes a while."""
_NOT_CONTENT = frozenset({"custom_id", "labels", "priority", "gpu"})
"""Fields of a job that change no frame of its clip."""
_COUNTED = (JobState.SUCCEEDED, JobState.WAITING, JobState.HELD, JobState.IN_FLIGHT)


@dataclass(frozen=True, slots=True)
class MadeBefore:
    """How many of a file's jobs earlier batches have, which these are, and the submission of the others."""

    jobs: int
    batch_ids: tuple[str, ...]
    """Newest first."""
    new: Submission

    @property
    def sentence(self) -> str:
        """Name what was made before."""
        shown = ", ".join(self.batch_ids[:3]) + (", …" if len(self.batch_ids) > 3 else "")
        return f"{self.jobs} of {self.jobs + len(self.new.jobs)} jobs are in batch {shown} already"


def made_before(
    session: Session, submission: Submission, options: BatchOptions, owner: str, *, asked: bool
) -> MadeBefore | None:
    """Compare the file's jobs with those of the owner's earlier batches of a file of this name.

    Returns None where no job was made before, where this very file was stored, or, unless ``asked``, it is large.
    """
    stored = select(Batch.id).where(Batch.idempotency_key == batches.default_key(submission, owner, options))
    if session.scalars(stored).first() is not None or (not asked and len(submission.jobs) > _NOTICED_JOBS):
        return None
    earlier = select(Batch).where(Batch.owner == owner, Batch.source_name == submission.source_name)
    rows = session.scalars(earlier.order_by(Batch.id.desc()).limit(_BATCHES)).all()
    ids = [row.id for row in rows if row.options == options.as_json()]
    if not ids:
        return None
    batch_of = dict(_clips(session, ids))
    new: list[PlannedJob] = []
    found: dict[str, None] = {}
    for job in submission.jobs:
        batch_id = batch_of.get(_content(job.spec.model_dump(mode="json", exclude_defaults=True)))
        if batch_id is None:
            new.append(job)
        else:
            found[batch_id] = None
    if not found:
        return None
    made = len(submission.jobs) - len(new)
    return MadeBefore(made, tuple(sorted(found, reverse=True)), _submission_of(submission, new))


def _clips(session: Session, batch_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
    query = select(Job.spec, Job.batch_id).where(
        Job.batch_id.in_(batch_ids), Job.state.in_(_COUNTED), Job.deleted_at.is_(None)
    )
    for spec, batch_id in session.execute(query.order_by(Job.batch_id).execution_options(yield_per=1000)):
        yield _content(spec), batch_id


def _content(spec: dict[str, Any]) -> str:
    return sha256_hex(canonical_json({name: value for name, value in spec.items() if name not in _NOT_CONTENT}))


def _submission_of(submission: Submission, new: Sequence[PlannedJob]) -> Submission:
    """The submission of some of its jobs: the same ones make the same batch."""
    contents = [job.spec.model_dump(mode="json", exclude_defaults=True) for job in new]
    return replace(submission, jobs=new, fingerprint=sha256_hex(canonical_json([submission.fingerprint, *contents])))
