"""Browser sessions as rows. A session is opened with a key and has, at each request, the rights of that key."""

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from db.api_keys import Held
from db.models import ApiKey, BrowserSession
from db.session import now_ms

LIFETIME_MS = 7 * 86_400_000
"""A session ends so long after it was opened, if nothing ended it before."""


def open_session(session: Session, secret_sha256: str, key_id: str) -> None:
    """Store a new session."""
    now = session.scalars(select(now_ms())).one()
    row = {"secret_sha256": secret_sha256, "key_id": key_id, "created_at": now, "expires_at": now + LIFETIME_MS}
    session.add(BrowserSession(**row))
    session.flush()


def key_of(session: Session, secret_sha256: str) -> Held | None:
    """Return the key with which a session was opened, and the database's clock; None: there is no such session now."""
    query = select(ApiKey, now_ms()).join(BrowserSession, BrowserSession.key_id == ApiKey.id)
    row = session.execute(
        query.where(BrowserSession.secret_sha256 == secret_sha256, BrowserSession.expires_at > now_ms())
    ).one_or_none()
    return None if row is None else Held(row[0], row[1])


def close_session(session: Session, secret_sha256: str) -> None:
    """End a session, if it is one."""
    session.execute(delete(BrowserSession).where(BrowserSession.secret_sha256 == secret_sha256))


def drop_expired(session: Session) -> int:
    """Remove the sessions that have ended by themselves; how many."""
    ended = delete(BrowserSession).where(BrowserSession.expires_at <= now_ms()).returning(BrowserSession.key_id)
    return len(session.scalars(ended.execution_options(synchronize_session=False)).all())
