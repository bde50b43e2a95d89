"""Jobs as cards: their pictures, their scores, and in words what became of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from db.clips.votes import Opinion, opinions
from db.models import Job
from db.reading import clips as reading
from pipeline.encoding.pictures import STRIP_FRAMES, strip_indices
from pipeline.html import Card
from pipeline.seeds import roll_seed
from pipeline.settings import Settings
from pipeline.spec import JobSpec
from pipeline.states import TERMINAL_JOB_STATES, JobState
from server.pages.assets import Kind, media_url
from service.views.waiting import ReasonView
from service.waiting import reasons_of

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
    session: Session,
    found: Sequence[Job],
    settings: Settings,
    *,
    metric: str | None = None,
    rater: str | None = None,
    large: bool = False,
) -> list[Card]:
    """Return the jobs' cards, with a few queries however many there are.

    ``rater`` is who looks at them; posters are small ones unless ``large``.
    """
    ids = [job.id for job in found]
    files, scores, said = (
        reading.files_of(session, ids),
        reading.scores_of(session, ids, metric),
        opinions(session, ids),
    )
    reasons = reasons_of(session, [job for job in found if job.state not in TERMINAL_JOB_STATES], settings)
    poster: Kind = "poster" if large else "thumbnail"
    return [
        _card(
            job, reasons.get(job.id), files.get(job.id, {}), scores.get(job.id), poster, _said(said.get(job.id), rater)
        )
        for job in found
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


def _missing_clip(job: Job, reason: ReasonView | None) -> str:
    """Say why there is no picture of a job's clip."""
    if job.deleted_at is not None:
        return "Deleted"
    if job.state is JobState.SUCCEEDED:
        return "Swept: its files are no longer kept"
    return _NO_PICTURE[job.state] if reason is None else reason.text


def _mending_command(job: Job, reason: ReasonView | None) -> str | None:
    if reason is not None and reason.mend is not None:
        return reason.mend
    verb = _MENDED_BY.get(job.state)
    return None if verb is None or job.deleted_at is not None else f"vgen {verb} {job.id}"


def _reason_of(job: Job) -> str | None:
    """Say why it failed, or was blocked."""
    return None if job.error_code is None else f"{job.error_code}: {job.error or 'no more is known'}"


def _card(
    job: Job,
    reason: ReasonView | None,
    files: Mapping[str, str],
    score: tuple[str, float] | None,
    poster: Kind,
    said: Mapping[str, Any],
) -> Card:
    spec = job.spec
    return Card(
        id=job.id,
        prompt=spec["prompt"],
        state=job.state.value,
        seed=roll_seed(spec["seed"], job.roll),
        href=f"/jobs/{job.id}",
        video=media_url(job.id, "video", files["video"]) if "video" in files else None,
        poster=media_url(job.id, poster, files["poster"]) if "poster" in files else None,
        strip=media_url(job.id, "strip", files["strip"]) if "strip" in files else None,
        strip_frames=_strip_frames(spec) if "strip" in files else 0,
        score=score,
        labels=spec.get("labels", {}),
        reason=_reason_of(job),
        command=_mending_command(job, reason),
        missing=None if files else _missing_clip(job, reason),
        **said,
    )


def _strip_frames(spec: Mapping[str, Any]) -> int:
    """How many frames a clip's strip shows; only a short clip's whole specification has to be read for that."""
    if spec["num_frames"] >= STRIP_FRAMES and not spec.get("extends"):
        return STRIP_FRAMES
    return len(strip_indices(JobSpec.model_validate(spec).clip_frames))
