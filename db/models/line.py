"""Tables of batches, jobs, steps, attempts, artifacts and checkpoints."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from db.base import ROW_ID, Base, EnumText, Json, one_of
from db.models.leased import Attempt, Leased, leased_checks, outcome_check
from pipeline.states import JobState, Stage

_LIVE = text("state IN ('dispatched', 'running')")
_WAITING = text("state = 'waiting'")

LIVE_INDEX = text("steps.state IN ('dispatched', 'running')")
"""Added to queries for either state: SQLite uses a partial index only where its own condition is written out."""


class Batch(Base):
    """The jobs of one submission."""

    __tablename__ = "batches"
    __table_args__ = (CheckConstraint("total >= 1", name="total"),)

    id: Mapped[str] = mapped_column(ROW_ID, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    owner: Mapped[str] = mapped_column(Text)
    source_name: Mapped[str] = mapped_column(Text)
    idempotency_key: Mapped[str] = mapped_column(String(200), unique=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    options: Mapped[dict[str, Any]] = mapped_column(Json)
    total: Mapped[int]
    paused: Mapped[bool] = mapped_column(default=False)
    active: Mapped[bool] = mapped_column(default=True)
    """False once every job is terminal: the dispatcher looks at active batches only."""
    created_at: Mapped[int] = mapped_column(BigInteger)
    deadline_at: Mapped[int | None] = mapped_column(BigInteger)
    max_gpu_ms: Mapped[int | None] = mapped_column(BigInteger)
    max_cost: Mapped[float | None]
    """The limit on cost, in the currency of the prices in the settings."""
    prices: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """Prices of an hour by GPU type, as they were when the budget was set: workers need not agree on the setting."""
    gpu_ms: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """GPU time of every ended attempt on a GPU's queue, whatever its outcome; counted where a budget is set, or
    where its key's GPU time is limited."""
    cost: Mapped[float] = mapped_column(default=0.0, server_default="0")
    over_budget: Mapped[bool] = mapped_column(default=False, server_default=false())
    """True once the budget is used up: nothing more of this batch is dispatched to a GPU."""
    key_id: Mapped[str | None] = mapped_column(String(8))
    """The key with which it was submitted over HTTP, whose quotas it counts against."""


_OF_A_KEY = text("key_id IS NOT NULL")
Index("ix_batches_key", Batch.key_id, Batch.created_at, postgresql_where=_OF_A_KEY, sqlite_where=_OF_A_KEY)
Index("ix_batches_active", Batch.id, postgresql_where=text("active"), sqlite_where=text("active"))


class Job(Base):
    """One clip: one prompt, one seed, one specification."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("batch_id", "seq"),
        Index("ix_jobs_batch_id_state", "batch_id", "state"),
        CheckConstraint(one_of("state", JobState), name="state"),
        CheckConstraint("roll >= 1", name="roll"),
        CheckConstraint(
            "(state IN ('succeeded', 'failed', 'blocked', 'cancelled')) = (finished_at IS NOT NULL)", name="finished"
        ),
        CheckConstraint("state <> 'failed' OR error_code IS NOT NULL", name="failed_has_code"),
    )

    id: Mapped[str] = mapped_column(ROW_ID, primary_key=True)
    batch_id: Mapped[str] = mapped_column(ROW_ID, ForeignKey("batches.id"))
    seq: Mapped[int]
    line: Mapped[int]
    variant: Mapped[int]
    spec: Mapped[dict[str, Any]] = mapped_column(Json)
    state: Mapped[JobState] = mapped_column(EnumText(JobState))
    roll: Mapped[int] = mapped_column(default=1)
    priority: Mapped[int] = mapped_column(default=0)
    custom_id: Mapped[str | None] = mapped_column(Text)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(BigInteger)
    finished_at: Mapped[int | None] = mapped_column(BigInteger)
    deleted_at: Mapped[int | None] = mapped_column(BigInteger)
    """When somebody deleted its clip: the row stays, its files are gone, and nothing brings it back."""
    remixed_from: Mapped[str | None] = mapped_column(ROW_ID)
    """The job whose specification it is, with another prompt."""


class Segment(Base):
    """One stretch of a clip as it was generated; the first release makes one a job."""

    __tablename__ = "segments"
    __table_args__ = (CheckConstraint("num_frames >= 1", name="num_frames"),)

    job_id: Mapped[str] = mapped_column(ROW_ID, ForeignKey("jobs.id"), primary_key=True)
    roll: Mapped[int] = mapped_column(primary_key=True)
    segment: Mapped[int] = mapped_column(primary_key=True)
    prompt: Mapped[str] = mapped_column(Text)
    num_frames: Mapped[int]
    frames_sha256: Mapped[str] = mapped_column(String(64))
    numerics: Mapped[dict[str, Any]] = mapped_column(Json)
    created_at: Mapped[int] = mapped_column(BigInteger)


class Step(Leased, Base):
    """The unit of claim: one stage of one segment of one roll of a job.

    A row is made when its turn comes, in the transaction that finishes the step before it.
    """

    __tablename__ = "steps"
    __table_args__ = (
        UniqueConstraint("job_id", "roll", "segment", "stage"),
        Index("ix_steps_live", "queue", "state", "dispatched_at", postgresql_where=_LIVE, sqlite_where=_LIVE),
        *leased_checks(),
        CheckConstraint(one_of("stage", Stage), name="stage"),
        CheckConstraint("attempt >= 0 AND segment >= 0", name="counts"),
    )

    job_id: Mapped[str] = mapped_column(ROW_ID, ForeignKey("jobs.id"))
    roll: Mapped[int]
    segment: Mapped[int]
    stage: Mapped[Stage] = mapped_column(EnumText(Stage))
    priority: Mapped[int] = mapped_column(default=0)
    need: Mapped[str] = mapped_column(Text, default="", server_default="")
    """The preset and GPU types of a generate step (``routes.need_of``), so that one preset's are found at once."""
    memory_rung: Mapped[int] = mapped_column(default=0, server_default="0")
    """The rung of the memory ladder that a generate step is on (``pipeline.policy.memory_ladder.Rung``)."""
    progress_phase: Mapped[str | None] = mapped_column(String(32))
    progress_step: Mapped[int] = mapped_column(default=0)
    progress_total: Mapped[int] = mapped_column(default=0)
    output: Mapped[dict[str, Any] | None] = mapped_column(Json)

    @property
    def progressed(self) -> bool:
        """Whether its attempt got anywhere."""
        return self.progress_step > 0


STEPS = cast(Table, Step.__table__)
"""The table itself, for statements that are built once."""

Index(
    "ix_steps_waiting",
    Step.batch_id,
    Step.stage,
    Step.need,
    Step.priority.desc(),
    Step.id,
    postgresql_where=_WAITING,
    sqlite_where=_WAITING,
)


class StageRun(Attempt, Base):
    """One attempt at a job's step."""

    __tablename__ = "stage_runs"
    __table_args__ = (
        UniqueConstraint("step_id", "attempt"),
        Index("ix_stage_runs_queue_ended", "queue", "ended_at"),
        outcome_check(),
    )

    step_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("steps.id"))
    job_id: Mapped[str] = mapped_column(ROW_ID, ForeignKey("jobs.id"), index=True)
    stage: Mapped[Stage] = mapped_column(EnumText(Stage))


class ArtifactRow(Base):
    """A published object of a job: at most one of a kind."""

    __tablename__ = "artifacts"
    __table_args__ = (UniqueConstraint("key"), CheckConstraint("size >= 1", name="size"))

    job_id: Mapped[str] = mapped_column(ROW_ID, ForeignKey("jobs.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32), primary_key=True)
    roll: Mapped[int]
    key: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    media_type: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[int] = mapped_column(BigInteger)


class ContinuationState(Base):
    """The state that segment k + 1 starts from: a small payload and references to blobs in the store."""

    __tablename__ = "continuation_states"
    __table_args__ = (CheckConstraint("version >= 1", name="version"),)

    job_id: Mapped[str] = mapped_column(ROW_ID, ForeignKey("jobs.id"), primary_key=True)
    roll: Mapped[int] = mapped_column(primary_key=True)
    segment: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(64))
    version: Mapped[int]
    payload: Mapped[dict[str, Any]] = mapped_column(Json)
    blobs: Mapped[dict[str, Any]] = mapped_column(Json)
    created_at: Mapped[int] = mapped_column(BigInteger)


class Checkpoint(Base):
    """A point where a segment goes on: the denoising loop's state after ``step`` of ``total``, as a stored object.

    At most two a segment: the newest within the clip, and, once denoising has ended, the final latents.
    """

    __tablename__ = "checkpoints"
    __table_args__ = (
        CheckConstraint("step >= 1 AND step <= total", name="step"),
        CheckConstraint("size >= 1", name="size"),
    )

    job_id: Mapped[str] = mapped_column(ROW_ID, ForeignKey("jobs.id"), primary_key=True)
    roll: Mapped[int] = mapped_column(primary_key=True)
    segment: Mapped[int] = mapped_column(primary_key=True)
    final: Mapped[bool] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    step: Mapped[int]
    total: Mapped[int]
    key: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    numerics: Mapped[dict[str, Any]] = mapped_column(Json)
    created_at: Mapped[int] = mapped_column(BigInteger)
