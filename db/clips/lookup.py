"""Finds the batch or job that a person names: by id, by the start of a batch's id, or by a ``custom_id``."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.clips import batches, jobs
from db.models import Batch, Job
from pipeline.errors import InputError, NoSuchRowError, Problem

_SHOWN = 5
_SHORTEST = 4
"""A person who cuts an id keeps so much of it at least; fewer characters are no batch's beside a custom_id."""


@dataclass(frozen=True, slots=True)
class Target:
    """A whole batch, or one job of it."""

    batch_id: str
    job_id: str | None = None


def job_named(session: Session, name: str) -> Job:
    """The job of that id, or the only one with that ``custom_id``.

    Raises:
        NotFoundError: there is none.
        InputError: several jobs have that ``custom_id``.
    """
    job = jobs.find(session, name) or _of_custom_id(session, name)
    if job is None:
        raise NoSuchRowError(
            f"job {name!r} does not exist, and no job has it as custom_id; "
            "`vgen list` shows batches, `vgen list BATCH` its jobs"
        )
    return job


def target_named(session: Session, name: str) -> Target:
    """The batch or job of that name; a whole id wins, then a ``custom_id``, then the start of a batch's id.

    Raises:
        NotFoundError: there is none.
        InputError: several have it.
    """
    if name == "latest":
        return Target(batches.get(session, name).id)
    if session.get(Batch, name) is not None:
        return Target(name)
    if (job := jobs.find(session, name) or _of_custom_id(session, name)) is None:
        if "-" in name:
            job = job_named(session, name)
        else:
            return Target(batches.get(session, name).id)
    elif len(name) >= _SHORTEST and job.id != name:
        _require_no_batch(session, name, job)
    return Target(job.batch_id, job.id)


def _require_no_batch(session: Session, name: str, job: Job) -> None:
    """Raises InputError: what is changed must not depend on which of two is meant."""
    begins = select(Batch.id).where(Batch.id.startswith(name, autoescape=True)).limit(1)
    if (batch_id := session.scalars(begins).first()) is not None:
        raise InputError([Problem(f"{name!r} begins batch {batch_id} and is custom_id of job {job.id}: write the id")])


def _of_custom_id(session: Session, custom_id: str) -> Job | None:
    """Reads every job: people ask so, workers do not."""
    query = select(Job).where(Job.custom_id == custom_id).order_by(Job.id.desc()).limit(_SHOWN + 1)
    matches = session.scalars(query).all()
    if len(matches) > 1:
        ids = ", ".join(job.id for job in matches[:_SHOWN]) + (", …" if len(matches) > _SHOWN else "")
        raise InputError(
            [Problem(f"several jobs have custom_id {custom_id!r}: write the id of one, newest first: {ids}")]
        )
    return matches[0] if matches else None
