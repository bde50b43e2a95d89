"""Tables of scores, evaluation runs and their steps."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.base import ROW_ID, Base, EnumText, Json, one_of
from db.models.leased import Attempt, Leased, leased_checks, outcome_check
from pipeline.states import EvalState


class Score(Base):
    """One metric's score of one clip (a roll of a job) by one scorer; scored again by the same, it is replaced."""

    __tablename__ = "scores"
    __table_args__ = (
        CheckConstraint("(score IS NULL) = (reason IS NOT NULL)", name="score_or_reason"),
        CheckConstraint("roll >= 1", name="roll"),
    )

    job_id: Mapped[str] = mapped_column(ROW_ID, ForeignKey("jobs.id"), primary_key=True)
    roll: Mapped[int] = mapped_column(primary_key=True)
    metric: Mapped[str] = mapped_column(String(100), primary_key=True)
    scorer_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    """sha256 of ``scorer`` as canonical JSON."""
    score: Mapped[float | None]
    reason: Mapped[str | None] = mapped_column(Text)
    """Why it was not scored."""
    passed: Mapped[bool | None]
    details: Mapped[dict[str, Any]] = mapped_column(Json)
    version: Mapped[int]
    weights_digest: Mapped[str | None] = mapped_column(String(64))
    """sha256 over the weight files' digests; None for a metric without weights."""
    scorer: Mapped[dict[str, Any]] = mapped_column(Json)
    scored_at: Mapped[int] = mapped_column(BigInteger)


class EvalRun(Base):
    """Scoring of a batch or a suite as one thing: what is to be scored, and whether all of it was."""

    __tablename__ = "eval_runs"
    __table_args__ = (
        CheckConstraint(one_of("state", EvalState), name="state"),
        CheckConstraint("expected >= 1", name="expected"),
        CheckConstraint("(state = 'open') = (finished_at IS NULL)", name="finished"),
    )

    id: Mapped[str] = mapped_column(ROW_ID, primary_key=True)
    batch_id: Mapped[str] = mapped_column(ROW_ID, ForeignKey("batches.id"), index=True)
    kind: Mapped[str] = mapped_column(String(32))
    """``batch``, ``suite`` or ``nightly``."""
    metrics: Mapped[list[str]] = mapped_column(Json)
    suite: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """Name and sha256 of the suite's file, and its dimensions; None for a plain batch."""
    expected: Mapped[int]
    """Clips; the batch's jobs."""
    state: Mapped[EvalState] = mapped_column(EnumText(EvalState))
    summary: Mapped[dict[str, Any] | None] = mapped_column(Json)
    created_at: Mapped[int] = mapped_column(BigInteger)
    finished_at: Mapped[int | None] = mapped_column(BigInteger)


class ScoreStep(Leased, Base):
    """A step of an evaluation run: a slice of its batch's clips, to be scored by one model family.

    The rows are all made when the run begins; one becomes ``waiting`` once the jobs of its slice have ended.
    """

    __tablename__ = "score_steps"
    __table_args__ = (
        UniqueConstraint("run_id", "family", "first_seq"),
        Index("ix_score_steps_state_run_id", "state", "run_id"),
        *leased_checks(),
        CheckConstraint("attempt >= 0 AND first_seq >= 0 AND last_seq >= first_seq", name="counts"),
    )

    batch_id: Mapped[str] = mapped_column(ROW_ID, ForeignKey("batches.id"), index=True)
    run_id: Mapped[str] = mapped_column(ROW_ID, ForeignKey("eval_runs.id"))
    family: Mapped[str] = mapped_column(String(32))
    """``pipeline.scoring.families.split`` names them."""
    first_seq: Mapped[int]
    last_seq: Mapped[int]
    """The slice: the jobs of the batch from ``first_seq`` to here."""
    scored: Mapped[int] = mapped_column(default=0)
    """Clips whose scores this attempt has recorded."""
    unread: Mapped[int] = mapped_column(default=0)
    """Clips that could not be read."""

    @property
    def progressed(self) -> bool:
        """Whether its attempt got anywhere."""
        return self.scored > 0


class ScoreRun(Attempt, Base):
    """One attempt at a step of an evaluation run."""

    __tablename__ = "score_runs"
    __table_args__ = (
        UniqueConstraint("step_id", "attempt"),
        Index("ix_score_runs_queue_ended", "queue", "ended_at"),
        outcome_check(),
    )

    step_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("score_steps.id"))
    batch_id: Mapped[str] = mapped_column(ROW_ID, ForeignKey("batches.id"), index=True)
