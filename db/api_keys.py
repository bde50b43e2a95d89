"""API keys as rows: created, found, revoked. Only digests of their secrets are stored."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from sqlalchemy import Table, or_, select, update
from sqlalchemy.orm import Session

from db import events
from db.models import ApiKey
from db.session import now_ms

USED_EVERY_MS = 60_000
"""A key's last use is written at most so often."""


_ANY = select(cast(Table, ApiKey.__table__).c.id).limit(1)


class Held(NamedTuple):
    """A key's row, and the database's clock as it was read."""

    key: ApiKey
    now: int


def add(
    session: Session,
    key_id: str,
    *,
    secret_sha256: str,
    name: str,
    owner: str,
    scopes: Sequence[str],
    lifetime_ms: int | None,
    by: str,
    quotas: Mapping[str, int | None] | None = None,
) -> ApiKey:
    """Store a new key; it ends after ``lifetime_ms``, if at all."""
    now = session.scalars(select(now_ms())).one()
    key = ApiKey(
        id=key_id,
        name=name,
        owner=owner,
        scopes=list(scopes),
        secret_sha256=secret_sha256,
        created_at=now,
        expires_at=None if lifetime_ms is None else now + lifetime_ms,
        **(quotas or {}),
    )
    session.add(key)
    session.flush()
    events.record(session, "api_key_created", key=key_id, owner=owner, scopes=list(scopes), by=by)
    return key


def limit(session: Session, key_id: str, quotas: Mapping[str, int | None], *, by: str) -> None:
    """Change what a key may have, by the names of its columns."""
    session.execute(update(ApiKey).where(ApiKey.id == key_id).values(**quotas))
    told: dict[str, Any] = {"key": key_id, "by": by, **quotas}
    events.record(session, "api_key_limited", **told)


def find(session: Session, key_id: str) -> Held | None:
    row = session.execute(select(ApiKey, now_ms()).where(ApiKey.id == key_id)).one_or_none()
    return None if row is None else Held(row[0], row[1])


def any_exist(session: Session) -> bool:
    """Return whether any key was ever made, revoked or not."""
    return session.connection().execute(_ANY).one_or_none() is not None


def usable(session: Session, key_id: str | None = None) -> bool:
    """Return whether this key, or any, would be let in now."""
    lasts = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now_ms())
    query = select(ApiKey.id).where(ApiKey.revoked_at.is_(None), lasts).limit(1)
    return session.scalars(query if key_id is None else query.where(ApiKey.id == key_id)).first() is not None


def all_keys(session: Session, *, owner: str | None = None) -> Sequence[ApiKey]:
    """The keys, oldest first."""
    query = select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)
    return session.scalars(query if owner is None else query.where(ApiKey.owner == owner)).all()


def revoke(session: Session, key_id: str, *, by: str) -> bool:
    """End a key for good. False when it was revoked before, or there is none."""
    changed = session.scalars(
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=now_ms())
        .returning(ApiKey.id)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if changed is not None:
        events.record(session, "api_key_revoked", key=key_id, by=by)
    return changed is not None


def note_use(session: Session, key_id: str) -> None:
    """Write that it was used now, unless that was written less than a minute ago."""
    stale = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at <= now_ms() - USED_EVERY_MS)
    session.execute(
        update(ApiKey)
        .where(ApiKey.id == key_id, stale)
        .values(last_used_at=now_ms())
        .execution_options(synchronize_session=False)
    )
