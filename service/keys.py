"""API keys: their format, scopes, creation, verification and revocation."""

import contextlib
import hmac
import re
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import Enum
from functools import partial
from typing import Any

from db import api_keys, browser_sessions
from db.api_keys import Held
from db.models import ApiKey
from db.session import Database
from pipeline.digests import sha256_hex
from pipeline.errors import InputError, NotFoundError, Problem, ServiceUnavailableError
from pipeline.names import check_name, check_owner
from pipeline.nearest import did_you_mean
from pipeline.policy.deadlines import parse_deadline
from service.views.keys import KeyCreatedView, KeyView, RevokedView, key_view

ADMIN = "admin"
SCOPES = {
    "videos.read": "See videos, batches, jobs, events and reports.",
    "videos.write": "Make and delete videos.",
    "batches.write": "Submit prompt files; cancel, retry, pause, resume, rerun and extend; change budgets.",
    "votes.write": "Give clips stars and notes, and vote between them.",
    "stream": "Open streams.",
    "metrics.read": "Read metrics and the list of workers.",
    ADMIN: "Everything, of every owner; also approve and reject held jobs, and pause queues.",
}
"""What a key may be allowed to do."""
DEFAULT_SCOPES = ("videos.read", "videos.write", "batches.write", "votes.write", "stream")
PREFIX = "vgen_sk_"
"""The beginning of every key."""
_KEY = re.compile(PREFIX + r"([a-z0-9]{8})_([0-9a-f]{64})")
_ID_CHARACTERS = string.ascii_lowercase + string.digits
_MAX_NAME = 100
_MOST = 1e9
"""The largest quota."""


class KeyRule(Enum):
    """When a request must have a key."""

    ALWAYS = "always"
    ONCE_ANY_EXISTS = "once any exists"
    """While no key was ever made, whoever reaches the server is its user: it listens on this machine alone."""
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Quotas:
    """How much a key may have; None: as much as it likes. A day is the last 24 hours."""

    max_active_jobs: int | None = None
    max_daily_clips: int | None = None
    max_daily_gpu_seconds: float | None = None
    """Of what was submitted within the day."""

    def problems(self) -> list[Problem]:
        """What is wrong with them."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return [
            Problem(f"{value:g} is not possible: more than 0, and at most {_MOST:g}", f"--{name.replace('_', '-')}")
            for name, value in given.items()
            if not 0 < value <= _MOST
        ]

    def columns(self) -> dict[str, int | None]:
        """The values as rows have them."""
        seconds = self.max_daily_gpu_seconds
        return {
            "max_active_jobs": self.max_active_jobs,
            "max_daily_clips": self.max_daily_clips,
            "max_daily_gpu_ms": None if seconds is None else max(1, round(seconds * 1000)),
        }


NO_QUOTAS = Quotas()


class KeyRefusedError(Exception):
    """The key does not open anything; the text says why."""


def create(
    database: Database,
    *,
    name: str,
    owner: str,
    scopes: Sequence[str],
    expires: str | None,
    by: str,
    quotas: Quotas = NO_QUOTAS,
) -> KeyCreatedView:
    """Make a key. Raises InputError with every mistake."""
    problems = quotas.problems()
    checks: dict[str, Callable[[], object]] = {
        "NAME": partial(check_name, name, _MAX_NAME),
        "--owner": partial(check_owner, owner),
        "--expires": partial(_lifetime_ms, expires),
    }
    for field, check in checks.items():
        try:
            check()
        except ValueError as error:
            problems.append(Problem(str(error), field=field))
    problems += [
        Problem(f"{scope!r} is not a scope: {did_you_mean(scope, SCOPES)}use {', '.join(SCOPES)}", field="--scope")
        for scope in scopes
        if scope not in SCOPES
    ]
    if problems:
        raise InputError(problems)
    key_id = "".join(secrets.choice(_ID_CHARACTERS) for _ in range(8))
    secret = secrets.token_hex(32)
    with database.transaction() as session:
        key = api_keys.add(
            session,
            key_id,
            secret_sha256=sha256_hex(secret),
            name=name,
            owner=owner,
            scopes=[scope for scope in SCOPES if scope in scopes],
            lifetime_ms=_lifetime_ms(expires),
            by=by,
            quotas=quotas.columns(),
        )
    return KeyCreatedView(key=key_view(key), secret=f"{PREFIX}{key_id}_{secret}")


def _lifetime_ms(expires: str | None) -> int | None:
    if expires is None:
        return None
    now = datetime.now().astimezone()
    return int((parse_deadline(expires, now) - now).total_seconds() * 1000)


def revoke(database: Database, ids: Sequence[str], *, by: str) -> RevokedView:
    """End keys for good, all or none. Raises NotFoundError: there is no such key."""
    with database.transaction() as session:
        for key_id in ids:
            if api_keys.find(session, key_id) is None:
                raise NotFoundError(f"key {key_id[:80]!r} does not exist; `vgen keys list` shows the keys")
        revoked = [key_id for key_id in dict.fromkeys(ids) if api_keys.revoke(session, key_id, by=by)]
    return RevokedView(revoked=revoked, unchanged=[key_id for key_id in dict.fromkeys(ids) if key_id not in revoked])


def limit(database: Database, key_id: str, changes: Mapping[str, float | None], *, by: str) -> KeyView:
    """Change quotas of a key, by the names that ``Quotas`` has; None takes one away. What is stored already stays.

    Raises:
        InputError: a number is not possible.
        NotFoundError: there is no such key.
    """
    with database.transaction() as session:
        held = api_keys.find(session, key_id)
        if held is None:
            raise NotFoundError(f"key {key_id[:80]!r} does not exist; `vgen keys list` shows the keys")
        quotas = Quotas(**{**_quotas_of(held.key), **changes})
        if problems := quotas.problems():
            raise InputError(problems)
        api_keys.limit(session, key_id, quotas.columns(), by=by)
        return key_view(held.key)


def _quotas_of(key: ApiKey) -> dict[str, Any]:
    gpu_ms = key.max_daily_gpu_ms
    return {
        "max_active_jobs": key.max_active_jobs,
        "max_daily_clips": key.max_daily_clips,
        "max_daily_gpu_seconds": None if gpu_ms is None else gpu_ms / 1000,
    }


def verify(database: Database, text: str) -> ApiKey:
    """Return the key that this text is, and note its use. Raises KeyRefusedError."""
    parts = _KEY.fullmatch(text)
    if parts is None:
        raise KeyRefusedError("it does not look like a key of vgen: vgen_sk_, an id, _ and a secret")
    key_id, secret = parts.groups()
    with database.reading() as session:
        held = api_keys.find(session, key_id)
    # Compared also where there is no such key, so that the time tells nobody which ids exist.
    expected = "0" * 64 if held is None else held.key.secret_sha256
    if not hmac.compare_digest(sha256_hex(secret), expected) or held is None:
        raise KeyRefusedError("there is no such key")
    return _in_use(database, held)


def open_session(database: Database, key: ApiKey) -> str:
    """Open a browser's session with a key that was verified; the secret text that the browser is to send."""
    secret = secrets.token_urlsafe(32)
    with database.transaction() as session:
        browser_sessions.open_session(session, sha256_hex(secret), key.id)
    return secret


def verify_session(database: Database, secret: str) -> ApiKey:
    """Return the key with which this session was opened, and note its use. Raises KeyRefusedError."""
    with database.reading() as session:
        held = browser_sessions.key_of(session, sha256_hex(secret))
    if held is None:
        raise KeyRefusedError("this session has ended")
    return _in_use(database, held)


def close_session(database: Database, secret: str) -> None:
    """End a browser's session."""
    with database.transaction() as session:
        browser_sessions.close_session(session, sha256_hex(secret))


def _in_use(database: Database, held: Held) -> ApiKey:
    """Return the key, if it is one still, and note its use. Raises KeyRefusedError."""
    key, now = held
    if key.revoked_at is not None:
        raise KeyRefusedError("this key was revoked")
    if key.expires_at is not None and key.expires_at <= now:
        raise KeyRefusedError("this key has expired")
    if key.last_used_at is None or key.last_used_at <= now - api_keys.USED_EVERY_MS:
        with contextlib.suppress(ServiceUnavailableError), database.transaction() as session:
            api_keys.note_use(session, key.id)
    return key
