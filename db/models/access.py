"""Tables of API keys, and of the browser sessions that they open."""

from sqlalchemy import BigInteger, ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from db.base import Base, Json


class ApiKey(Base):
    """One key. Its secret is random and long, so that a plain digest of it gives nothing away."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(8), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    owner: Mapped[str] = mapped_column(Text)
    """Whose batches it makes and sees."""
    scopes: Mapped[list[str]] = mapped_column(Json)
    secret_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int | None] = mapped_column(BigInteger)
    revoked_at: Mapped[int | None] = mapped_column(BigInteger)
    max_active_jobs: Mapped[int | None]
    max_daily_clips: Mapped[int | None]
    max_daily_gpu_ms: Mapped[int | None] = mapped_column(BigInteger)
    last_used_at: Mapped[int | None] = mapped_column(BigInteger)
    """Written at most once a minute."""


class BrowserSession(Base):
    """A browser in which somebody signed in with a key. The browser has a random text, the row its digest."""

    __tablename__ = "browser_sessions"

    secret_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    key_id: Mapped[str] = mapped_column(String(8), ForeignKey("api_keys.id"))
    """A session is worth what its key is worth at each request."""
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int] = mapped_column(BigInteger, index=True)
