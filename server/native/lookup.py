"""The batch or job of a path, where the caller may see it, and the scopes of these routes."""

import re
from typing import Annotated

from fastapi import Depends
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import Batch, Job
from pipeline.errors import NotFoundError
from server.auth import Caller, owned, require
from server.database import Line
from service.keys import ADMIN

Reader = Annotated[Caller, Depends(require("videos.read"))]
Writer = Annotated[Caller, Depends(require("batches.write"))]
Judge = Annotated[Caller, Depends(require("votes.write"))]
Observer = Annotated[Caller, Depends(require("metrics.read"))]
Admin = Annotated[Caller, Depends(require(ADMIN))]


_ID = re.compile(r"[A-Za-z0-9-]{1,40}")
"""What an id may look like; anything else is in no row."""


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def visible_batch(session: Session, caller: Caller, batch_id: str) -> Batch:
    """Raises NotFoundError, also where it is another owner's."""
    query = owned(select(Batch).where(Batch.id == batch_id), caller)
    batch = session.scalars(query).one_or_none() if is_id(batch_id) else None
    if batch is None:
        raise NotFoundError(f"batch {batch_id[:80]!r} does not exist")
    return batch


def visible_job(session: Session, caller: Caller, job_id: str) -> Job:
    """Raises NotFoundError, also where its batch is another owner's."""
    query = select(Job).join(Batch, Batch.id == Job.batch_id).where(Job.id == job_id)
    job = session.scalars(owned(query, caller)).one_or_none() if is_id(job_id) else None
    if job is None:
        raise NotFoundError(f"job {job_id[:80]!r} does not exist")
    return job


def require_batch(line: Line, caller: Caller, batch_id: str) -> None:
    """Raises NotFoundError."""
    with line.database.reading() as session:
        visible_batch(session, caller, batch_id)


def require_job(line: Line, caller: Caller, job_id: str) -> None:
    """Raises NotFoundError."""
    with line.database.reading() as session:
        visible_job(session, caller, job_id)
