"""The caller of a request."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection

from server.database import ServedLine
from server.errors import ApiError


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request."""

    owner: str
    """Whose batches the request makes and sees."""
    scopes: frozenset[str] | None = None
    """What it may do; None: everything."""
    sees_all: bool = False
    """True if it sees every owner's rows."""

    def may(self, scope: str) -> bool:
        return self.scopes is None or scope in self.scopes


async def caller(connection: HTTPConnection, line: ServedLine) -> Caller:
    """Return the owner of the settings, who sees everything: only this machine can reach the server."""
    return Caller(line.settings.owner, sees_all=True)


CurrentCaller = Annotated[Caller, Depends(caller)]


def require(scope: str) -> Callable[[Caller], Coroutine[Any, Any, Caller]]:
    """Return a dependency: the caller, who may do what the scope names. Raises ApiError: 403."""

    async def permitted(caller: CurrentCaller) -> Caller:
        if not caller.may(scope):
            raise ApiError(403, f"this key does not have the scope {scope!r}", code="insufficient_scope")
        return caller

    return permitted
