"""Idempotency of requests: a repeated request gets the answer to the first one."""

from dataclasses import dataclass

from sqlalchemy import and_, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from db.models import RequestKey
from db.session import now_ms

REPEATED_WITHIN_MS = 600_000
"""For so long a request with the same fields, which says that it is a repetition, is the first one sent again."""


@dataclass(frozen=True, slots=True)
class Repetition:
    """What tells a request from others, and whether it is another one sent again."""

    owner: str
    key: str
    fingerprint: str
    lifetime_ms: int
    repeated: bool = False
    by_key: bool = False
    """True if the client chose the key itself: then the first request under it counts, whatever the later ones say."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The batch that a request was answered with."""

    batch_id: str
    fingerprint: str


def answered(session: Session, request: Repetition) -> Answered | None:
    """Return what the request was answered with when it came before; None: it is new."""
    if not (request.by_key or request.repeated):
        return None
    row = session.execute(
        select(RequestKey.batch_id, RequestKey.fingerprint).where(
            RequestKey.owner == request.owner,
            RequestKey.key == request.key,
            RequestKey.created_at >= now_ms() - request.lifetime_ms,
        )
    ).one_or_none()
    return None if row is None else Answered(row.batch_id, row.fingerprint)


def record(session: Session, request: Repetition, batch_id: str, *, since_ms: int) -> Answered | None:
    """Record in the transaction that stores the batch; what another one stored meanwhile, which is then the answer.

    ``since_ms`` is how long ago the request came. Of two at one instant the second waits for the first. A request that
    is no repetition makes a batch of its own, unless its own repetition has overtaken it.
    """
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    values = {
        "owner": request.owner,
        "key": request.key,
        "fingerprint": request.fingerprint,
        "batch_id": batch_id,
        "repeated": request.repeated,
        "created_at": now_ms(),
    }
    over = RequestKey.created_at < now_ms() - request.lifetime_ms
    overtaken = and_(RequestKey.repeated, RequestKey.created_at >= now_ms() - since_ms)
    statement = dialect.insert(RequestKey).values(values)
    statement = statement.on_conflict_do_update(
        index_elements=["owner", "key"],
        set_={name: statement.excluded[name] for name in values.keys() - {"owner", "key"}},
        where=over if request.by_key or request.repeated else ~overtaken,
    )
    if session.execute(statement.returning(RequestKey.batch_id)).one_or_none() is not None:
        return None
    own = (RequestKey.owner == request.owner, RequestKey.key == request.key)
    first = session.execute(select(RequestKey.batch_id, RequestKey.fingerprint).where(*own)).one()
    return Answered(first.batch_id, first.fingerprint)


def drop_old(session: Session, *, older_than_ms: int) -> int:
    """Forget requests that are too old to be sent again; how many."""
    age_ms = max(older_than_ms, REPEATED_WITHIN_MS)
    old = delete(RequestKey).where(RequestKey.created_at < now_ms() - age_ms).returning(RequestKey.key)
    return len(session.scalars(old.execution_options(synchronize_session=False)).all())
