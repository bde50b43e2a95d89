"""Stores a person's rating or vote, and reads those of a batch."""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy.orm import Session

from db.clips import jobs, votes
from db.clips.votes import MAX_STARS, Opinion
from db.models import Batch, Job
from db.session import Database
from pipeline.errors import InputError, Problem
from pipeline.names import check_text
from service.views.jobs import job_view
from service.views.votes import JudgedClipView, RatingView, VotesView, VoteView, rating_view, vote_view

MAX_NOTE = 4000
"""Characters of a note."""
_CHUNK = 500


def change_rating(database: Database, job_id: str, changes: Mapping[str, Any], *, rater: str) -> RatingView:
    """Change ``stars`` or ``note``, or both; None takes away, what is not named stays.

    Raises:
        InputError: a value is not possible.
        ConflictError: there is no clip to give stars to, or it was deleted.
    """
    changes = dict(changes)
    problems = []
    if not changes:
        problems.append(Problem("give stars, a note, or both"))
    if (stars := changes.get("stars")) is not None and not 1 <= stars <= MAX_STARS:
        problems.append(Problem(f"{stars} is not a number of stars: use 1 to {MAX_STARS}", field="stars"))
    if (note := changes.get("note")) is not None:
        changes["note"] = note.replace("\r\n", "\n").strip() or None
        try:
            check_text(note, MAX_NOTE, empty=True)
        except ValueError as error:
            problems.append(Problem(str(error), field="note"))
    if problems:
        raise InputError(problems)
    with database.transaction() as session:
        return rating_view(job_id, rater, votes.rate(session, job_id, rater=rater, changes=changes))


def cast_vote(database: Database, first: str, second: str, preferred: str | None, *, rater: str) -> VoteView:
    """Record which of two clips is better, by a job's id; None: neither. It replaces this person's earlier vote.

    Raises:
        InputError: the two are one, or ``preferred`` is none of them.
        ConflictError: one of the two has no clip.
    """
    if first == second:
        raise InputError([Problem(f"{second[:80]!r} is the first clip, too: name two", field="second")])
    if preferred not in (None, first, second):
        rule = f"{str(preferred)[:80]!r} is neither of the two: name one of them, or null for neither"
        raise InputError([Problem(rule, field="preferred")])
    with database.transaction() as session:
        return vote_view(votes.vote(session, (first, second), preferred, rater=rater))


def votes_of(session: Session, batch: Batch, video_of: Callable[[str, str], str], *, owner: str | None) -> VotesView:
    """Return what is said of a batch's clips.

    Clips of other batches are there where somebody voted between them and one of these; those of batches of others than
    ``owner`` are left out, and the votes with them (None: nothing is). ``video_of`` makes the path or URL of a video
    from a job's id and the video's key.
    """
    cast = list(votes.votes_of_batch(session, batch.id))
    own = votes.judged_jobs(session, batch.id)
    others = sorted({job_id for row in cast for job_id in (row.first_job_id, row.second_job_id)} - set(own))
    rows = votes.jobs_of(session, [*own, *others], owner)
    ids = [job_id for job_id in (*own, *others) if job_id in rows]
    said, clips = votes.opinions(session, ids), list[JudgedClipView]()
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        files = jobs.artifacts(session, chunk)
        for job_id in chunk:
            video = files.get(job_id, {}).get("video")
            url = None if video is None else video_of(job_id, video.key)
            clips.append(_judged(rows[job_id], said.get(job_id, Opinion()), url))
    shown = [row for row in cast if row.first_job_id in rows and row.second_job_id in rows]
    return VotesView(batch_id=batch.id, clips=clips, votes=[vote_view(row) for row in shown])


def _judged(job: Job, opinion: Opinion, video: str | None) -> JudgedClipView:
    view = job_view(job)
    return JudgedClipView.of(
        view,
        job_id=view.id,
        video=video,
        stars=opinion.stars,
        won=opinion.won,
        lost=opinion.lost,
        tied=opinion.tied,
        ratings=[rating_view(job.id, row.rater, row) for row in opinion.ratings],
    )
