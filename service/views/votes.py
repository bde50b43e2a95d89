"""Views of ratings, notes and votes."""

from pydantic import Field

from db.models import ClipRating, ClipVote
from service.views.base import View, when


class RatingView(View):
    """One person's stars and note for one clip."""

    job_id: str
    rater: str = Field(description="The owner of the key with which it was said.")
    stars: int | None = Field(description="1 to 5; null: none.")
    note: str | None
    updated_at: str | None = Field(description="ISO 8601, UTC; null: nothing is said of the clip.")


class VoteView(View):
    """One person's choice between two clips."""

    first: str = Field(description="The id of a job.")
    second: str = Field(description="The id of another job.")
    preferred: str | None = Field(description="The id of the better of the two; null: neither is.")
    rater: str
    voted_at: str = Field(description="ISO 8601, UTC.")


class JudgedClipView(View):
    """What people say of one clip."""

    job_id: str
    prompt: str
    seed: int
    preset: str
    custom_id: str | None
    labels: dict[str, str]
    video: str | None = Field(description="The path or URL of its video; null: it has none, or none any more.")
    stars: float | None = Field(description="The mean of all raters' stars.")
    won: int = Field(description="Votes in which it is the better one.")
    lost: int
    tied: int = Field(description="Votes in which neither is better.")
    ratings: list[RatingView]


class VotesView(View):
    """What people say of a batch's clips."""

    batch_id: str
    clips: list[JudgedClipView] = Field(
        description="In the order of the file, and clips of other batches in its votes."
    )
    votes: list[VoteView] = Field(description="In the order of their time.")


def rating_view(job_id: str, rater: str, row: ClipRating | None) -> RatingView:
    """Return the view of what a person says of a clip; of nothing, one that says so."""
    if row is None:
        return RatingView(job_id=job_id, rater=rater, stars=None, note=None, updated_at=None)
    return RatingView.of(row, updated_at=when(row.updated_at))


def vote_view(row: ClipVote) -> VoteView:
    return VoteView(
        first=row.first_job_id,
        second=row.second_job_id,
        preferred=row.preferred_job_id,
        rater=row.rater,
        voted_at=when(row.voted_at),
    )
