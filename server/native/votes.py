"""Stars, notes and votes between clips, and their export."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from pipeline.errors import InputError, Problem
from pipeline.nearest import did_you_mean
from server.database import ServedLine
from server.json_bodies import JsonRoute
from server.native.bodies import Rating, Vote
from server.native.lookup import Judge, Reader, require_job, visible_batch
from service import votes
from service.views.votes import RatingView, VotesView, VoteView

router = APIRouter(route_class=JsonRoute)
_TYPES: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}
Form = Annotated[str, Query(alias="format", description=f"The form: {', '.join(votes.EXPORTS)}.")]


@router.patch("/jobs/{job_id}/rating")
def rate_job(job_id: str, body: Rating, line: ServedLine, caller: Judge) -> RatingView:
    """Give a clip stars, or a note, or both; once more changes what the same owner said before."""
    require_job(line, caller, job_id)
    return votes.change_rating(line.database, job_id, body.changes(), rater=caller.owner)


@router.post("/votes")
def vote(body: Vote, line: ServedLine, caller: Judge) -> VoteView:
    """Say which of two clips is better; once more changes what the same owner said before of the two."""
    for job_id in (body.first, body.second):
        require_job(line, caller, job_id)
    return votes.cast_vote(line.database, body.first, body.second, body.preferred, rater=caller.owner)


@router.get("/batches/{batch_id}/votes", responses=_TYPES, response_model=VotesView)
def export_votes(request: Request, batch_id: str, line: ServedLine, caller: Reader, form: Form = "json") -> Response:
    """Return what is said of a batch's clips: as JSON, as CSV, or as other tools read it; see docs/pages.md."""
    if form not in votes.EXPORTS:
        rule = f"{did_you_mean(form, votes.EXPORTS)}use one of {', '.join(votes.EXPORTS)}"
        raise InputError([Problem(f"{form[:80]!r} is not a form: {rule}", field="format")])

    def video_of(job_id: str, key: str) -> str:
        return f"{str(request.base_url).rstrip('/')}/v1/videos/{job_id}/content"

    owner = None if caller.sees_all else caller.owner
    with line.database.reading() as session:
        view = votes.votes_of(session, visible_batch(session, caller, batch_id), video_of, owner=owner)
    text, media_type = votes.exported(view, form)
    ending = "csv" if form == "csv" else "json"
    named = {"content-disposition": f'attachment; filename="votes-{view.batch_id}.{ending}"'}
    return Response(text, media_type=media_type, headers={**named, "cache-control": "no-store"})
