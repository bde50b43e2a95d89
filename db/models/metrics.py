"""Tables of metrics: totals that only grow, and the measurements that are not yet added to them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Float, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from db.base import Base, BigId, Json


class Measurement(Base):
    """Something that is not in the totals yet, written in the transaction in which it happened.

    It is inserted and never changed: transactions that end at one instant would wait for each other on a counter's row.
    """

    __tablename__ = "measurements"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    data: Mapped[dict[str, Any]] = mapped_column(Json)
    at: Mapped[int] = mapped_column(BigInteger)


class Total(Base):
    """A counter, a bucket of a histogram, or a histogram's sum; retention never takes anything from it."""

    __tablename__ = "totals"

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    labels: Mapped[str] = mapped_column(Text, primary_key=True)
    """Labels and their values as canonical JSON."""
    bucket: Mapped[str] = mapped_column(String(16), primary_key=True)
    """Empty for a counter; of a histogram the bucket's upper bound, or ``sum``."""
    value: Mapped[float] = mapped_column(Float(53))
