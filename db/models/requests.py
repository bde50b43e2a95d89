"""The table of requests that clients may repeat."""

from sqlalchemy import BigInteger, ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from db.base import ROW_ID, Base


class RequestKey(Base):
    """What a request was answered with, for the client that sends it again because no answer came."""

    __tablename__ = "request_keys"

    owner: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[str] = mapped_column(String(80), primary_key=True)
    """``key:`` and the digest of the client's own key, or ``fields:`` and the digest of the request's fields."""
    fingerprint: Mapped[str] = mapped_column(String(64))
    """The digest of the request's fields."""
    batch_id: Mapped[str] = mapped_column(ROW_ID, ForeignKey("batches.id"))
    repeated: Mapped[bool] = mapped_column(default=False)
    """True if the request that made the batch said itself that it was a repetition."""
    created_at: Mapped[int] = mapped_column(BigInteger, index=True)
