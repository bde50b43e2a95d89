"""Tables of workers, of the memory that clips have needed, and of paused queues."""

from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from db.base import Base, Json


class Worker(Base):
    """A process that claims steps, and when it was last seen."""

    __tablename__ = "workers"
    __table_args__ = (CheckConstraint("slots >= 1", name="slots"),)

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    host: Mapped[str] = mapped_column(Text)
    pid: Mapped[int]
    queues: Mapped[list[str]] = mapped_column(Json)
    slots: Mapped[int]
    gpu_type: Mapped[str | None] = mapped_column(String(64))
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    loaded: Mapped[str | None] = mapped_column(String(100))
    assigned_preset: Mapped[str | None] = mapped_column(String(100))
    """The preset that the dispatcher wants this GPU worker to hold; it serves that preset's queue once it is warm."""
    assigned_since: Mapped[int | None] = mapped_column(BigInteger)
    failed_presets: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """Presets that it could not load: each to when (ms), error code, message, and whether
    it serves the preset all the same, so that the jobs fail with its error."""
    drain_reason: Mapped[str | None] = mapped_column(Text)
    """Why it takes no more work although nobody stopped it."""
    draining: Mapped[bool] = mapped_column(default=False)
    started_at: Mapped[int] = mapped_column(BigInteger)
    seen_at: Mapped[int] = mapped_column(BigInteger, index=True)


class MemoryNeed(Base):
    """The rung of the memory ladder that clips of one shape have needed on a GPU type."""

    __tablename__ = "memory_needs"
    __table_args__ = (CheckConstraint("rung >= 0 AND clips >= 1", name="counts"),)

    gpu_type: Mapped[str] = mapped_column(String(64), primary_key=True)
    shape: Mapped[str] = mapped_column(String(64), primary_key=True)
    """Digest of preset, size, length and acceleration; the first three are also kept for people."""
    preset: Mapped[str] = mapped_column(Text)
    width: Mapped[int]
    height: Mapped[int]
    num_frames: Mapped[int]
    rung: Mapped[int]
    clips: Mapped[int]
    """The number of such clips in a row."""
    since: Mapped[int] = mapped_column(BigInteger)


class Queue(Base):
    """Whether a person paused a queue; a queue without a row is not paused."""

    __tablename__ = "queues"

    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    paused: Mapped[bool] = mapped_column(default=False)
