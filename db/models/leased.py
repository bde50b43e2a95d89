"""The columns that every table of a leased queue has, and every table of its attempts."""

from sqlalchemy import BigInteger, CheckConstraint, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from db.base import ROW_ID, BigId, EnumText, one_of
from pipeline.states import AttemptOutcome, StepState


class Leased:
    """A step that workers claim. ``attempt`` is the fence: an end holds only for the attempt that is current."""

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    batch_id: Mapped[str] = mapped_column(ROW_ID)
    state: Mapped[StepState] = mapped_column(EnumText(StepState))
    attempt: Mapped[int] = mapped_column(default=0)
    queue: Mapped[str | None] = mapped_column(String(120))
    worker: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[int | None] = mapped_column(BigInteger)
    not_before: Mapped[int] = mapped_column(BigInteger, default=0)
    dispatched_at: Mapped[int | None] = mapped_column(BigInteger)
    started_at: Mapped[int | None] = mapped_column(BigInteger)
    finished_at: Mapped[int | None] = mapped_column(BigInteger)
    errors: Mapped[int] = mapped_column(default=0)
    """Attempts that failed for something outside; the next two count bugs (and too little memory), and crashes."""
    faults: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    losses: Mapped[int] = mapped_column(default=0)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[str | None] = mapped_column(Text)


def leased_checks() -> tuple[CheckConstraint, ...]:
    """What the database refuses of any leased table."""
    return (
        CheckConstraint(one_of("state", StepState), name="state"),
        CheckConstraint("state NOT IN ('dispatched', 'running') OR queue IS NOT NULL", name="live_has_queue"),
        CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="running_has_lease"),
    )


class Attempt:
    """One attempt at a step, written when it ended; never changed."""

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    attempt: Mapped[int]
    queue: Mapped[str | None] = mapped_column(String(120))
    worker: Mapped[str | None] = mapped_column(String(200))
    started_at: Mapped[int] = mapped_column(BigInteger)
    ended_at: Mapped[int] = mapped_column(BigInteger)
    """The time when its worker could begin the next step. A clip is handed over after that."""
    outcome: Mapped[AttemptOutcome] = mapped_column(EnumText(AttemptOutcome))
    error_code: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[str | None] = mapped_column(Text)


def outcome_check() -> CheckConstraint:
    return CheckConstraint(one_of("outcome", AttemptOutcome), name="outcome")
