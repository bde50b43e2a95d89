"""The caller of a request: whose key it has, and what that key may do."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from db import api_keys
from db.events import acting_key
from db.models import ApiKey
from server.database import Line, ServedLine
from server.errors import ApiError
from server.this_machine import comes_from_this_machine, names_this_machine
from service import keys
from service.keys import ADMIN, KeyRule


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request."""

    owner: str
    """Whose batches the request makes and sees."""
    scopes: frozenset[str] | None = None
    """What it may do; None: everything."""
    sees_all: bool = False
    """True if it sees every owner's rows."""
    key_id: str | None = None
    """The key that it has, if it has one."""

    def may(self, scope: str) -> bool:
        return self.scopes is None or scope in self.scopes


async def caller(connection: HTTPConnection, line: ServedLine) -> Caller:
    """Return whose request it is: its key's owner's; without keys, on this machine, that of the owner of the settings.

    Every event that the request leads to has the key's id (``db.events.acting_key``).

    Raises:
        ApiError: 401, there is no valid key; 403, a page of another site asks.
    """
    known = getattr(connection.state, "caller", None)
    if known is None:
        known = connection.state.caller = await _caller(connection, line)
    acting_key.set(known.key_id)
    return cast(Caller, known)


async def _caller(connection: HTTPConnection, line: Line) -> Caller:
    text = credential(connection.headers, connection.url.query)
    # OpenAI's libraries always send something as their key.
    if text is None or not text.startswith(keys.PREFIX):
        if (unnamed := await without_key(connection, line)) is not None:
            return unnamed
        if text is None:
            raise refusal("a key is needed: send it as `Authorization: Bearer KEY` or as `X-API-Key: KEY`")
    return await holder_of(text, line)


async def holder_of(text: str, line: Line) -> Caller:
    """Return the owner of a key, by whom all is done from here on. Raises ApiError: 401, the key is not valid."""
    try:
        key = await run_in_threadpool(keys.verify, line.database, text)
    except keys.KeyRefusedError as error:
        raise refusal(f"the key is not valid: {error}") from None
    return caller_with(key)


def caller_with(key: ApiKey) -> Caller:
    """Return the owner of a key that was verified, by whom all is done from here on."""
    acting_key.set(key.id)
    is_admin = ADMIN in key.scopes
    return Caller(key.owner, None if is_admin else frozenset(key.scopes), sees_all=is_admin, key_id=key.id)


async def without_key(connection: HTTPConnection, line: Line) -> Caller | None:
    """Return the owner of the settings, where nobody needs a key; else None. Raises ApiError: 403."""
    if not await run_in_threadpool(_may_come_without_key, line):
        return None
    _require_own_page(connection, line)
    return Caller(line.settings.owner, sees_all=True)


CurrentCaller = Annotated[Caller, Depends(caller)]


@dataclass(frozen=True, slots=True)
class Permission:
    """A dependency: the caller, who may do what the scope names."""

    scope: str

    async def __call__(self, caller: CurrentCaller) -> Caller:
        """Raises ApiError: 403."""
        if not caller.may(self.scope):
            raise ApiError(403, f"this key does not have the scope {self.scope!r}", code="insufficient_scope")
        return caller


def require(scope: str) -> Permission:
    """Return the dependency for a scope."""
    assert scope in keys.SCOPES, scope
    return Permission(scope)


async def admit(connection: HTTPConnection, line: Line, permissions: Iterable[Permission]) -> None:
    """Check the key before the body is read; what the route is handed later is what was found here.

    Raises:
        ApiError: 401, 403.
    """
    for permission in permissions:
        await permission(await caller(connection, line))


def still_holds(caller: Caller, line: Line) -> bool:
    """Return whether the caller would still be let in: asked now and then by answers that take long."""
    with line.database.reading() as session:
        return caller.key_id is None or api_keys.usable(session, caller.key_id)


def credential(headers: Headers, query: str) -> str | None:
    """Return the text that is given as a key; None: none is. Raises ApiError: 401, it is given in a wrong way."""
    if keys.PREFIX in query:
        raise refusal("keys are not read from URLs, which logs keep: revoke this one, and send keys in a header")
    given = {value.strip() for value in headers.getlist("x-api-key")}
    for value in headers.getlist("authorization"):
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() != "bearer":
            raise refusal("Authorization is not of the form `Bearer KEY`")
        given.add(token.strip())
    if len(given) > 1:
        raise refusal("several different keys are given")
    return next(iter(given), None)


def refusal(message: str) -> ApiError:
    """The answer to who has no valid key."""
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def _may_come_without_key(line: Line) -> bool:
    if line.key_rule is not KeyRule.ONCE_ANY_EXISTS:
        return line.key_rule is KeyRule.NEVER
    with line.database.reading() as session:
        return not api_keys.any_exist(session)


def _require_own_page(connection: HTTPConnection, line: Line) -> None:
    """Keep out what only got here through the user's browser. Raises ApiError: 403."""
    host, origin = connection.headers.get("host", ""), connection.headers.get("origin")
    if line.key_rule is KeyRule.ONCE_ANY_EXISTS and not names_this_machine(host):
        # A name of another site that was made to lead here.
        raise ApiError(403, f"without keys only this machine is served, and not as {host!r}", code="host_refused")
    if line.key_rule is KeyRule.ONCE_ANY_EXISTS and not comes_from_this_machine(connection.headers):
        text = "without keys only this machine is served, and a proxy sent this for another: make a key"
        raise ApiError(403, text, code="host_refused")
    if origin is not None and origin not in line.allowed_origins and not is_own_origin(origin, host):
        raise ApiError(403, f"pages of {origin} may not use this server without a key", code="origin_refused")


def is_own_origin(origin: str, host: str) -> bool:
    """Return whether an Origin header names the site of the Host header."""
    return origin.partition("://")[2] == host
