"""Tables of streaming sessions and of the GPUs reserved for them."""

from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from db.base import ROW_ID, Base, BigId, EnumText, Json, one_of
from pipeline.states import SessionState


class StreamSession(Base):
    """A session: it owns one batch, whose jobs are its segments, and which stays open until the session is settled."""

    __tablename__ = "stream_sessions"
    __table_args__ = (
        CheckConstraint(one_of("state", SessionState), name="state"),
        CheckConstraint("(state IN ('complete', 'error', 'timeout')) = (ended_at IS NOT NULL)", name="ended"),
        CheckConstraint("settled_at IS NULL OR ended_at IS NOT NULL", name="settled_has_ended"),
        CheckConstraint("segments >= 0", name="segments"),
        Index("ix_stream_sessions_owner_id", "owner", "id"),
    )

    id: Mapped[str] = mapped_column(ROW_ID, primary_key=True)
    owner: Mapped[str] = mapped_column(Text)
    batch_id: Mapped[str] = mapped_column(ROW_ID, unique=True)
    """The id that its batch has: the batch itself is stored with the first segment."""
    name: Mapped[str] = mapped_column(Text)
    preset: Mapped[str] = mapped_column(Text)
    need: Mapped[str] = mapped_column(Text)
    """What its segments need of a GPU (``routes.need_of``)."""
    state: Mapped[SessionState] = mapped_column(EnumText(SessionState))
    spec: Mapped[dict[str, Any]] = mapped_column(Json)
    """The fields that all its segments share: a ``JobSpec``, whose seed is the first segment's."""
    options: Mapped[dict[str, Any]] = mapped_column(Json)
    """The ``BatchOptions`` of its batch."""
    limits: Mapped[dict[str, Any]] = mapped_column(Json)
    """The columns of its batch that say what it may use."""
    extra: Mapped[dict[str, Any]] = mapped_column(Json)
    """What whoever speaks with the client keeps here."""
    continuation: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """What its first segment goes on from, where that is given."""
    segment_cap: Mapped[int | None]
    segments: Mapped[int] = mapped_column(default=0)
    """How many segments were asked for."""
    timeout_ms: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger)
    last_seen: Mapped[int] = mapped_column(BigInteger)
    """When the client was last heard of, or a segment was last at work."""
    ended_at: Mapped[int | None] = mapped_column(BigInteger)
    end_reason: Mapped[str | None] = mapped_column(Text)
    settled_at: Mapped[int | None] = mapped_column(BigInteger)
    """When all its segments had ended and its joined clip's job was stored; its batch may close from then on."""
    joined_job_id: Mapped[str | None] = mapped_column(ROW_ID, index=True)


_UNSETTLED = text("settled_at IS NULL")
Index("ix_stream_sessions_unsettled", StreamSession.created_at, postgresql_where=_UNSETTLED, sqlite_where=_UNSETTLED)


class Reservation(Base):
    """A GPU worker that takes one session's segments only; once it has ended the row is history."""

    __tablename__ = "reservations"
    __table_args__ = (CheckConstraint("idle_ms >= 0", name="idle_ms"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    session_id: Mapped[str] = mapped_column(ROW_ID, ForeignKey("stream_sessions.id"))
    batch_id: Mapped[str] = mapped_column(ROW_ID, index=True)
    worker: Mapped[str] = mapped_column(String(200))
    gpu_type: Mapped[str] = mapped_column(String(64))
    queue: Mapped[str] = mapped_column(String(120))
    """The only queue that the worker may take steps from meanwhile."""
    created_at: Mapped[int] = mapped_column(BigInteger)
    ready_at: Mapped[int | None] = mapped_column(BigInteger)
    """When the worker held the preset and nothing else ran there."""
    until: Mapped[int] = mapped_column(BigInteger)
    """When it ends unless the session is heard of: the session's own end of time."""
    counted_to: Mapped[int] = mapped_column(BigInteger)
    """Up to when the idle time has been counted."""
    idle_ms: Mapped[int] = mapped_column(BigInteger, default=0)
    """The reserved time in which no segment was generated."""
    ended_at: Mapped[int | None] = mapped_column(BigInteger)
    end_reason: Mapped[str | None] = mapped_column(String(64))


_LIVE = text("ended_at IS NULL")
Index("uq_reservations_live_worker", Reservation.worker, unique=True, postgresql_where=_LIVE, sqlite_where=_LIVE)
Index("uq_reservations_live_session", Reservation.session_id, unique=True, postgresql_where=_LIVE, sqlite_where=_LIVE)
