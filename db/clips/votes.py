"""Ratings, notes and votes: stored, and read for the clips of a page or a batch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, delete, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from db import events
from db.base import upsert
from db.clips import jobs
from db.models import Batch, ClipRating, ClipVote, Job
from db.session import now_ms
from pipeline.errors import ConflictError
from pipeline.states import JobState

MAX_STARS = 5
RATED = "clip_rated"
"""Kind of the event that somebody gave stars or a note; what a note says is in its row alone."""
VOTED = "vote_cast"
"""Kind of the event that somebody chose between two clips: one for each of them."""
_CHUNK = 500


@dataclass(slots=True)
class Opinion:
    """What people say of one clip."""

    ratings: list[ClipRating] = field(default_factory=list)
    won: int = 0
    lost: int = 0
    tied: int = 0

    @property
    def stars(self) -> float | None:
        """The mean of all raters' stars; None: nobody gave any."""
        given = [rating.stars for rating in self.ratings if rating.stars is not None]
        return sum(given) / len(given) if given else None

    def of(self, rater: str) -> ClipRating | None:
        """Return what this person said."""
        return next((rating for rating in self.ratings if rating.rater == rater), None)


def rate(session: Session, job_id: str, *, rater: str, changes: Mapping[str, Any]) -> ClipRating | None:
    """Change a person's ``stars`` or ``note``, or both, of one clip; None takes away, what is not named stays.

    Returns what holds then; None: nothing is said any more.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: it was deleted, or stars are given where no clip is.
    """
    job = jobs.lock(session, job_id)
    if job.deleted_at is not None:
        raise ConflictError(f"job {job_id}: its clip was deleted")
    if changes.get("stars") is not None:
        _require_clip(job)
    before = session.scalars(select(ClipRating).where(ClipRating.job_id == job_id, ClipRating.rater == rater))
    held = before.one_or_none()
    says = {"stars": held and held.stars, "note": held and held.note, **changes}
    if held is not None and all(getattr(held, name) == value for name, value in says.items()):
        return held
    of = (ClipRating.job_id == job_id, ClipRating.rater == rater)
    if says["stars"] is None and says["note"] is None:
        session.execute(delete(ClipRating).where(*of))
    else:
        values = {"job_id": job_id, "rater": rater, "batch_id": job.batch_id, "updated_at": now_ms(), **says}
        dialect = session.get_bind().dialect.name
        session.execute(upsert(dialect, ClipRating, ("job_id", "rater"), (*says, "updated_at"), **values))
    facts = {"stars": says["stars"], "note": says["note"] is not None}
    events.record(session, RATED, batch_id=job.batch_id, job_id=job_id, by=rater, **facts)
    return session.scalars(select(ClipRating).where(*of).execution_options(populate_existing=True)).one_or_none()


def vote(session: Session, pair: Sequence[str], preferred: str | None, *, rater: str) -> ClipVote:
    """Record which of two clips a person finds better, or neither (None); it replaces what that person said before.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: one of the two has no clip.
    """
    first, second = sorted(pair)
    assert first != second
    assert preferred in (None, first, second)
    both = [jobs.lock(session, job_id) for job_id in (first, second)]
    for job in both:
        _require_clip(job)
    key = {"first_job_id": first, "second_job_id": second, "rater": rater}
    values = {**key, "preferred_job_id": preferred, "voted_at": now_ms()}
    dialect = session.get_bind().dialect.name
    session.execute(upsert(dialect, ClipVote, tuple(key), ("preferred_job_id", "voted_at"), **values))
    for job, other in zip(both, reversed(both), strict=True):
        ids = {"batch_id": job.batch_id, "job_id": job.id}
        events.record(session, VOTED, **ids, other=other.id, preferred=preferred, by=rater)
    of = (ClipVote.first_job_id == first, ClipVote.second_job_id == second, ClipVote.rater == rater)
    return session.scalars(select(ClipVote).where(*of).execution_options(populate_existing=True)).one()


def _require_clip(job: Job) -> None:
    if job.state is not JobState.SUCCEEDED or job.deleted_at is not None:
        state = "deleted" if job.deleted_at is not None else job.state.value
        raise ConflictError(f"job {job.id} is {state}: stars and votes are for clips that were made")


def opinions(session: Session, job_ids: Sequence[str]) -> dict[str, Opinion]:
    """Return what people say of these clips; those of which nobody says anything are left out."""
    found: dict[str, Opinion] = {}
    for start in range(0, len(job_ids), _CHUNK):
        ids = job_ids[start : start + _CHUNK]
        rated = select(ClipRating).where(ClipRating.job_id.in_(ids)).order_by(ClipRating.job_id, ClipRating.rater)
        for rating in session.scalars(rated):
            found.setdefault(rating.job_id, Opinion()).ratings.append(rating)
        for own in (ClipVote.first_job_id, ClipVote.second_job_id):
            for job_id, preferred in session.execute(select(own, ClipVote.preferred_job_id).where(own.in_(ids))):
                _count(found.setdefault(job_id, Opinion()), job_id, preferred)
    return found


def _count(opinion: Opinion, job_id: str, preferred: str | None) -> None:
    if preferred is None:
        opinion.tied += 1
    elif preferred == job_id:
        opinion.won += 1
    else:
        opinion.lost += 1


def judged_jobs(session: Session, batch_id: str) -> list[str]:
    """Return the ids of a batch's jobs of which somebody says something, in the order of the file."""
    rated = select(ClipRating.job_id).where(ClipRating.batch_id == batch_id)
    voted = [select(own).where(_of_batch(own, batch_id)) for own in (ClipVote.first_job_id, ClipVote.second_job_id)]
    ids = session.scalars(rated.union(*voted)).all()
    return sorted(ids)


def votes_of_batch(session: Session, batch_id: str) -> Iterator[ClipVote]:
    """Yield the votes in which a clip of the batch is, in the order of their time."""
    of = or_(_of_batch(ClipVote.first_job_id, batch_id), _of_batch(ClipVote.second_job_id, batch_id))
    order = (ClipVote.voted_at, ClipVote.first_job_id, ClipVote.second_job_id, ClipVote.rater)
    yield from session.scalars(select(ClipVote).where(of).order_by(*order))


def _of_batch(job_id: InstrumentedAttribute[str], batch_id: str) -> ColumnElement[bool]:
    return job_id.in_(select(Job.id).where(Job.batch_id == batch_id))


def votes_among(session: Session, job_ids: Sequence[str], rater: str) -> list[ClipVote]:
    """Return a person's votes between clips that are all among these."""
    both = (ClipVote.first_job_id.in_(job_ids), ClipVote.second_job_id.in_(job_ids))
    return list(session.scalars(select(ClipVote).where(*both, ClipVote.rater == rater)))


def jobs_of(session: Session, job_ids: Sequence[str], owner: str | None) -> dict[str, Job]:
    """Return those of these jobs that are of this owner's batches, by id; of everybody's with None."""
    found: dict[str, Job] = {}
    for start in range(0, len(job_ids), _CHUNK):
        query = select(Job).where(Job.id.in_(job_ids[start : start + _CHUNK]))
        if owner is not None:
            query = query.join(Batch, Batch.id == Job.batch_id).where(Batch.owner == owner)
        found |= {job.id: job for job in session.scalars(query)}
    return found
