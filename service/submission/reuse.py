"""Finds the jobs of a file that earlier batches have made, or will make."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from sqlalchemy import ColumnElement, exists, select
from sqlalchemy.orm import Session

from db.clips import batches
from db.models import ArtifactRow, Batch, Job
from pipeline.digests import canonical_json, sha256_hex
from pipeline.prompts import PlannedJob, Submission
from pipeline.spec import BatchOptions, JobSpec
from pipeline.states import JobState

_BATCHES = 50
_COMPARED_JOBS = 20_000
"""Unless it is asked for, a file is compared with so many jobs, or four times its own: the newest batches'."""
_NOT_CONTENT = frozenset({"custom_id", "labels", "priority", "gpu"})
"""Fields of a job that change no frame of its clip."""
_TO_MAKE = (JobState.WAITING, JobState.HELD, JobState.IN_FLIGHT)


@dataclass(frozen=True, slots=True)
class MadeBefore:
    """How many of a file's jobs each earlier batch has, newest first, and the submission of the others."""

    jobs: Mapping[str, int]
    new: Submission

    def sentence(self, *, reused: bool) -> str:
        """Name what was made before, and say what becomes of it and how to have it otherwise."""
        ids, made = list(self.jobs), sum(self.jobs.values())
        shown = ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
        have = f"{made} of {made + len(self.new.jobs)} jobs are in batch {shown} already"
        if reused:
            return f"{have} and are not made again; the option 'again' makes all of them"
        return f"{have} and are made again; the option 'reuse' makes only what is new"


def made_before(
    session: Session, submission: Submission, options: BatchOptions, owner: str, *, asked: bool
) -> MadeBefore | None:
    """Compare the file's jobs with those of the owner's earlier batches of a file of this name and these options.

    Equal are jobs that make equal clips: prompt, seed and whatever else changes a frame. A job that failed, was
    cancelled, or whose clip is no longer kept was not made. ``asked`` compares with 50 batches, however large they are.

    Returns None where no job was made before, or where this very file was stored.
    """
    stored = select(Batch.id).where(Batch.idempotency_key == batches.default_key(submission, owner, options))
    if session.scalars(stored).first() is not None:
        return None
    earlier = select(Batch).where(Batch.owner == owner, _is_named(PurePath(submission.source_name).name))
    rows = session.scalars(earlier.order_by(Batch.id.desc()).limit(_BATCHES)).all()
    comparable = [row for row in rows if row.options == options.as_json()]
    most = None if asked else max(_COMPARED_JOBS, 4 * len(submission.jobs))
    if not comparable:
        return None
    contents = [_content_of(job.spec) for job in submission.jobs]
    wanted, batch_of = set(contents), dict[bytes, str]()
    for row in comparable:
        if not wanted or (most is not None and (most := most - row.total) < 0):
            break
        made = wanted.intersection(_clips(session, row.id))
        batch_of |= dict.fromkeys(made, row.id)
        wanted -= made
    if not batch_of:
        return None
    new = [job for job, content in zip(submission.jobs, contents, strict=True) if content in wanted]
    counted = Counter(batch_of[content] for content in contents if content in batch_of)
    jobs = {row.id: counted[row.id] for row in comparable if row.id in counted}
    return MadeBefore(jobs, _submission_of(submission, new))


def _is_named(name: str) -> ColumnElement[bool]:
    """The file's folder does not count: where it lay depends on who read it, and from which folder."""
    return (Batch.source_name == name) | Batch.source_name.endswith(f"/{name}", autoescape=True)


def _clips(session: Session, batch_id: str) -> Iterator[bytes]:
    """The contents of a batch's jobs whose clips are kept or will be made."""
    kept = exists().where(ArtifactRow.job_id == Job.id)
    made = Job.state.in_(_TO_MAKE) | ((Job.state == JobState.SUCCEEDED) & kept)
    query = select(Job.spec).where(Job.batch_id == batch_id, Job.deleted_at.is_(None), made)
    yield from map(_content, session.scalars(query.execution_options(yield_per=1000)))


def _content_of(spec: JobSpec) -> bytes:
    return _content(spec.model_dump(mode="json", exclude_defaults=True))


def _content(spec: Mapping[str, Any]) -> bytes:
    text = canonical_json({name: value for name, value in spec.items() if name not in _NOT_CONTENT})
    return bytes.fromhex(sha256_hex(text))


def _submission_of(submission: Submission, new: Sequence[PlannedJob]) -> Submission:
    """The submission of some of its jobs: the same ones make the same batch."""
    digests = [_content_of(job.spec).hex() for job in new]
    return replace(submission, jobs=new, fingerprint=sha256_hex(canonical_json([submission.fingerprint, *digests])))
