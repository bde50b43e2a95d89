"""Tables of ratings, notes and votes."""

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from db.base import ROW_ID, Base


class ClipRating(Base):
    """One person's stars and note for one clip; a row says at least one of the two."""

    __tablename__ = "clip_ratings"
    __table_args__ = (
        CheckConstraint("stars IS NULL OR (stars >= 1 AND stars <= 5)", name="stars"),
        CheckConstraint("stars IS NOT NULL OR note IS NOT NULL", name="says_something"),
        Index("ix_clip_ratings_batch_id", "batch_id"),
    )

    job_id: Mapped[str] = mapped_column(ROW_ID, ForeignKey("jobs.id"), primary_key=True)
    rater: Mapped[str] = mapped_column(Text, primary_key=True)
    """The owner of the key with which it was said; without keys the owner of the settings."""
    batch_id: Mapped[str] = mapped_column(ROW_ID)
    """The job's batch, so that a batch's ratings are found at once."""
    stars: Mapped[int | None]
    note: Mapped[str | None] = mapped_column(Text)
    updated_at: Mapped[int] = mapped_column(BigInteger)


class ClipVote(Base):
    """One person's choice between two clips; of the pair the smaller id is the first, whichever side it was on."""

    __tablename__ = "clip_votes"
    __table_args__ = (
        CheckConstraint("first_job_id <> second_job_id", name="two"),
        CheckConstraint(
            "preferred_job_id IS NULL OR preferred_job_id = first_job_id OR preferred_job_id = second_job_id",
            name="preferred",
        ),
        Index("ix_clip_votes_second_job_id", "second_job_id"),
    )

    first_job_id: Mapped[str] = mapped_column(ROW_ID, ForeignKey("jobs.id"), primary_key=True)
    second_job_id: Mapped[str] = mapped_column(ROW_ID, ForeignKey("jobs.id"), primary_key=True)
    rater: Mapped[str] = mapped_column(Text, primary_key=True)
    preferred_job_id: Mapped[str | None] = mapped_column(ROW_ID)
    """The better clip; NULL: neither is better."""
    voted_at: Mapped[int] = mapped_column(BigInteger)
