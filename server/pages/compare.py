"""``/compare``: two to four clips, or two batches clip by clip, in sync."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from db.clips import votes
from db.clips.votes import Opinion
from db.evals import runs
from db.models import ClipVote, Job
from pipeline.errors import InputError, Problem
from pipeline.html import Card
from pipeline.ids import job_id as id_of
from pipeline.settings import Settings
from server.auth import Caller
from server.database import ServedLine
from server.native.lookup import visible_batch, visible_job
from server.pages.assets import Viewer
from server.pages.clips import cards
from server.pages.rendering import page
from server.pages.route import PageRoute

router = APIRouter(route_class=PageRoute, include_in_schema=False)
_MOST = 4
_OF_BATCHES = 2


@dataclass(frozen=True, slots=True)
class Compared:
    """One clip among others."""

    card: Card
    spec: dict[str, Any]
    scores: dict[str, float | None]
    votes: str
    """How it fared in votes, in words."""
    chosen: bool
    """True if the one who looks found it better than each of the others."""

    def shown(self, name: str) -> str:
        """Return a field of its specification as text."""
        value = self.spec.get(name)
        if isinstance(value, dict):
            return ", ".join(f"{key}={item}" for key, item in value.items()) or "–"
        return "–" if value is None else str(value)


@router.get("/compare")
def compare(
    request: Request,
    line: ServedLine,
    visit: Viewer,
    job: Annotated[list[str] | None, Query()] = None,
    batch: Annotated[list[str] | None, Query()] = None,
    at: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """Show clips side by side."""
    chosen = list(dict.fromkeys(job or []))
    with line.database.reading() as session:
        last = 0
        if batch:
            if len(batch) != _OF_BATCHES:
                raise InputError([Problem("name two batches", field="batch")])
            last = min(visible_batch(session, visit.caller, name).total for name in batch) - 1
            chosen = [id_of(name, min(at, last)) for name in batch]
        if not 2 <= len(chosen) <= _MOST:
            rule = f"{len(chosen)} clips are chosen: choose two to four on the page of a batch"
            raise InputError([Problem(rule, field="job")])
        clips, own = _compared(session, visit.caller, line.settings, chosen)
    pair = f"/compare?batch={batch[0]}&batch={batch[1]}&at=" if batch else ""
    return page(
        request,
        visit,
        "compare.html",
        clips=clips,
        neither=len(clips) == 2 and any(vote.preferred_job_id is None for vote in own),
        votable=all(clip.card.video for clip in clips),
        here=f"/compare?{request.url.query}",
        differing=_differing(clips),
        metrics=sorted({metric for clip in clips for metric in clip.scores}),
        before=f"{pair}{at - 1}" if batch and at > 0 else None,
        after=f"{pair}{at + 1}" if batch and at < last else None,
    )


def _compared(
    session: Session, caller: Caller, settings: Settings, ids: Sequence[str]
) -> tuple[list[Compared], list[ClipVote]]:
    """Return the clips, and the votes between them of the one who looks."""
    jobs: list[Job] = [visible_job(session, caller, job_id) for job_id in ids]
    scores = runs.of_jobs(session, ids, current=True)
    said, own = votes.opinions(session, ids), votes.votes_among(session, ids, caller.owner)
    clips = [
        Compared(
            card,
            job.spec,
            {score.metric: score.score for score in scores.get(job.id, [])},
            _in_words(said.get(job.id)),
            chosen=sum(vote.preferred_job_id == job.id for vote in own) == len(ids) - 1,
        )
        for card, job in zip(cards(session, jobs, settings, rater=caller.owner, large=True), jobs, strict=True)
    ]
    return clips, own


def _in_words(opinion: Opinion | None) -> str:
    if opinion is None or not (cast := opinion.won + opinion.lost + opinion.tied):
        return ""
    return f"won {opinion.won} of {cast} {'vote' if cast == 1 else 'votes'}"


def _differing(clips: Sequence[Compared]) -> list[str]:
    """Return the fields of the specifications that are not the same in all."""
    names = sorted({name for clip in clips for name in clip.spec} - {"prompt"})
    return [name for name in names if len({repr(clip.spec.get(name)) for clip in clips}) > 1]
