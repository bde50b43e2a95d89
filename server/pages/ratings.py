"""Stars, notes and votes, given by forms of a clip's page, of a wall and of a comparison."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request, Response
from starlette.responses import RedirectResponse

from pipeline.errors import InputError, Problem
from server.auth import Visit, sending
from server.database import ServedLine
from server.native import votes as api
from server.native.bodies import Rating, Vote
from server.native.lookup import is_id
from server.pages.address import own_path
from server.pages.route import PageRoute

router = APIRouter(route_class=PageRoute, include_in_schema=False)
Judging = Annotated[Visit, Depends(sending("votes.write"))]
_STARS = {"": None, **{str(stars): stars or None for stars in range(6)}}


@router.post("/jobs/{job_id}/rate")
def rate_clip(
    job_id: str,
    line: ServedLine,
    visit: Judging,
    stars: Annotated[str | None, Form()] = None,
    note: Annotated[str | None, Form()] = None,
    back: Annotated[str, Form()] = "",
) -> Response:
    """Store the stars, or the note, or both, whichever the form has."""
    given: dict[str, int | str | None] = {} if note is None else {"note": note}
    if stars is not None:
        given["stars"] = _stars(stars)
    api.rate_job(job_id, Rating.model_validate(given), line, visit.caller)
    return RedirectResponse(own_path(back) if back else f"/jobs/{job_id}?did=rate#rating", 303)


@router.post("/rate")
def rate_on_wall(
    line: ServedLine, visit: Judging, rate: Annotated[str, Form()], back: Annotated[str, Form()] = "/"
) -> Response:
    """Store the stars of the button that was pressed: a job's id and their number, 0 for none."""
    job_id, _, stars = rate.partition(" ")
    api.rate_job(job_id, Rating(stars=_stars(stars)), line, visit.caller)
    anchor = f"#clip-{job_id}" if is_id(job_id) else ""
    return RedirectResponse(own_path(back) + anchor, 303)


def _stars(text: str) -> int | None:
    """Raises InputError."""
    if text not in _STARS:
        raise InputError([Problem(f"{text[:80]!r} is not a number of stars: use 0 to 5", field="stars")])
    return _STARS[text]


@router.post("/vote")
def vote(
    request: Request,
    line: ServedLine,
    visit: Judging,
    job: Annotated[list[str] | None, Form()] = None,
    best: Annotated[str, Form()] = "",
    back: Annotated[str, Form()] = "/",
) -> Response:
    """Store that one clip is better than each of the others; of two, perhaps that neither is (``best`` is empty)."""
    compared = list(dict.fromkeys(job or []))[:4]
    if len(compared) < 2 or (best and best not in compared) or (not best and len(compared) != 2):
        raise InputError([Problem("choose one of the clips that are compared, or of two neither", field="best")])
    pairs = [tuple(compared)] if not best else [(best, other) for other in compared if other != best]
    for first, second in pairs:
        api.vote(Vote(first=first, second=second, preferred=best or None), line, visit.caller)
    return RedirectResponse(own_path(back), 303)
