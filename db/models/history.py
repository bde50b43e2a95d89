"""The table of events."""

from typing import Any

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from db.base import ROW_ID, Base, BigId, Json


class Event(Base):
    """Something that happened: history is rows."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_batch_id_id", "batch_id", "id"), Index("ix_events_job_id_id", "job_id", "id"))

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    at: Mapped[int] = mapped_column(BigInteger)
    batch_id: Mapped[str | None] = mapped_column(ROW_ID)
    job_id: Mapped[str | None] = mapped_column(ROW_ID)
    kind: Mapped[str] = mapped_column(String(64))
    data: Mapped[dict[str, Any]] = mapped_column(Json)
