"""Jobs as cards: their pictures, their scores, and in words what became of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy.orm import Session

from db.clips import jobs
from db.clips.votes import Opinion, opinions
from db.evals import runs
from db.models import ArtifactRow, Job, Score
from pipeline.encoding.pictures import strip_indices
from pipeline.html import Card
from pipeline.settings import Settings
from pipeline.spec import JobSpec
from pipeline.states import JobState
from server.pages.assets import media_url
from service.views.jobs import JobView
from service.waiting import job_views

_NO_PICTURE = {
    JobState.WAITING: "Waits for its turn",
    JobState.HELD: "Held: waits for a person's word",
    JobState.IN_FLIGHT: "Is being made",
    JobState.FAILED: "Failed",
    JobState.BLOCKED: "Blocked",
    JobState.CANCELLED: "Cancelled",
}
_MENDED_BY = {JobState.FAILED: "retry", JobState.CANCELLED: "retry", JobState.HELD: "approve"}


def cards(
    session: Session, found: Sequence[Job], settings: Settings, *, metric: str | None = None, rater: str | None = None
) -> list[Card]:
    """Return the jobs' cards, with a few queries however many there are; ``rater`` is who looks at them."""
    ids = [job.id for job in found]
    files = jobs.artifacts(session, ids)
    scores = runs.of_jobs(session, ids, current=True)
    said = opinions(session, ids)
    return [
        replace(
            _card(job, view, files.get(job.id, {}), scores.get(job.id, ()), metric), **_said(said.get(job.id), rater)
        )
        for job, view in zip(found, job_views(session, found, settings), strict=True)
    ]


def _said(opinion: Opinion | None, rater: str | None) -> dict[str, Any]:
    """What people say of a clip, as a card shows it: one's own first."""
    if opinion is None:
        return {}
    own = opinion.of(rater) if rater is not None else None
    noted = sorted((rating for rating in opinion.ratings if rating.note), key=lambda rating: rating is not own)
    several = len(opinion.ratings) > 1
    notes = [f"{rating.rater}: {rating.note}" if several else str(rating.note) for rating in noted]
    cast = opinion.won + opinion.lost + opinion.tied
    return {
        "stars": opinion.stars,
        "own_stars": (own.stars or 0) if own is not None else 0,
        "own_note": own.note if own is not None else None,
        "note": "\n".join(notes) or None,
        "won": (opinion.won, cast) if cast else None,
    }


def missing_clip(job: Job, view: JobView) -> str:
    """Say why there is no picture of a job's clip."""
    if job.deleted_at is not None:
        return "Deleted"
    if job.state is JobState.SUCCEEDED:
        return "Swept: its files are no longer kept"
    return _NO_PICTURE[job.state] if view.reason is None else view.reason.text


def mending_command(job: Job, view: JobView) -> str | None:
    if view.reason is not None and view.reason.mend is not None:
        return view.reason.mend
    verb = _MENDED_BY.get(job.state)
    return None if verb is None or job.deleted_at is not None else f"vgen {verb} {job.id}"


def reason_of(job: Job) -> str | None:
    """Say why it failed, or was blocked."""
    return None if job.error_code is None else f"{job.error_code}: {job.error or 'no more is known'}"


def _card(
    job: Job, view: JobView, files: Mapping[str, ArtifactRow], scores: Sequence[Score], metric: str | None
) -> Card:
    urls = {kind: media_url(file) for kind, file in files.items()}
    shown = next((score for score in scores if metric in (None, score.metric) and score.score is not None), None)
    return Card(
        id=job.id,
        prompt=view.prompt,
        state=view.state,
        seed=view.seed,
        href=f"/jobs/{job.id}",
        video=urls.get("video"),
        poster=urls.get("poster"),
        strip=urls.get("strip"),
        strip_frames=len(strip_indices(JobSpec.model_validate(job.spec).clip_frames)) if "strip" in urls else 0,
        score=None if shown is None or shown.score is None else (shown.metric, shown.score),
        labels=view.labels,
        reason=reason_of(job),
        command=mending_command(job, view),
        missing=None if urls else missing_clip(job, view),
    )
