"""Whoever looks at the pages: a browser's session, which a key opens, and the forms that it sends.

The session's cookie holds a random text whose digest is a row (``db.browser_sessions``), never the key: no script can
read it, it ends with the browser, by itself after a week, and at once when its key is revoked. A form carries a token
made of that cookie, which another site's page cannot know.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Form, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from db.events import acting_key
from server.auth.caller import Caller, caller_with, credential, holder_of, is_own_origin, refusal, without_key
from server.database import Line, ServedLine
from server.errors import ApiError
from service import keys

SESSION_COOKIE = "vgen_session"
FORM_COOKIE = "vgen_form"
"""Of a browser without a session: a random text, of which its forms' tokens are made."""
_PUBLIC = frozenset({"videos.read"})
_OWN_SITE = frozenset({"same-origin", "none"})


@dataclass(frozen=True, slots=True)
class Visit:
    """Who looks, and what its forms must bring along."""

    caller: Caller
    token: str
    signed_in: bool = False
    """True if a session's cookie was sent."""

    def may(self, scope: str) -> bool:
        return self.caller.may(scope)


async def visitor(request: Request, line: ServedLine) -> Visit:
    """Return who looks at a page.

    Raises:
        ApiError: 401, there is no valid session where one is needed; 403, a page of another site asks.
    """
    acting_key.set(None)
    session = request.cookies.get(SESSION_COOKIE)
    if (text := credential(request.headers, request.url.query)) is not None:
        return Visit(await holder_of(text, line), _token(text))
    if session is not None:
        return Visit(await session_holder(session, line), _token(session), signed_in=True)
    caller = await without_key(request, line)
    if caller is None and line.settings.serve.public_pages and request.method in ("GET", "HEAD"):
        caller = Caller(line.settings.owner, _PUBLIC, sees_all=True)
    if caller is None:
        raise refusal("sign in with a key to see this page")
    return Visit(caller, form_token(request))


async def session_holder(secret: str, line: Line) -> Caller:
    """Return the owner of a browser's session. Raises ApiError: 401."""
    try:
        return caller_with(await run_in_threadpool(keys.verify_session, line.database, secret))
    except keys.KeyRefusedError as error:
        raise refusal(str(error)) from None


CurrentVisit = Annotated[Visit, Depends(visitor)]


def seeing(scope: str) -> Callable[[Visit], Coroutine[Any, Any, Visit]]:
    """Return a dependency: a visitor who may do what the scope names. Raises ApiError: 403."""
    assert scope in keys.SCOPES, scope

    async def permitted(visit: CurrentVisit) -> Visit:
        if not visit.may(scope):
            raise ApiError(403, f"this needs a key with the scope {scope!r}", code="insufficient_scope")
        return visit

    return permitted


def sending(scope: str) -> Callable[..., Coroutine[Any, Any, Visit]]:
    """Return a dependency: a visitor who may do that, by a form of our own pages. Raises ApiError: 403."""

    async def permitted(
        request: Request, visit: Annotated[Visit, Depends(seeing(scope))], token: Annotated[str, Form()] = ""
    ) -> Visit:
        require_own_form(request, visit.token, token)
        return visit

    return permitted


def require_own_form(request: Request, expected: str, token: str) -> None:
    """Keep out forms that another site's page sends through the user's browser. Raises ApiError: 403."""
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    foreign = origin is not None and not is_own_origin(origin, host)
    if foreign or request.headers.get("sec-fetch-site", "none") not in _OWN_SITE:
        raise ApiError(403, "forms are accepted from this server's own pages only", code="origin_refused")
    if not hmac.compare_digest(expected.encode(), token.encode()):
        message = "the form belongs to another session: reload the page and send it again"
        raise ApiError(403, message, code="form_token_invalid")


def form_token(request: Request) -> str:
    """Return the token for forms of a browser without a session, which gets a cookie for it if it has none."""
    held = request.cookies.get(FORM_COOKIE)
    if held is None:
        held = request.state.form_cookie = secrets.token_hex(16)
    return _token(held)


def keep_form_cookie(request: Request, response: Response) -> None:
    """Give the browser the cookie that ``form_token`` made for it."""
    if (held := getattr(request.state, "form_cookie", None)) is not None:
        _set(request, response, FORM_COOKIE, held)


async def open_session(request: Request, response: Response, line: Line, key: str) -> None:
    """Have the browser signed in from here on. Raises ApiError: 401, the key is not valid."""
    try:
        held = await run_in_threadpool(keys.verify, line.database, key)
    except keys.KeyRefusedError as error:
        raise refusal(f"the key is not valid: {error}") from None
    _set(request, response, SESSION_COOKIE, await run_in_threadpool(keys.open_session, line.database, held))


async def close_session(request: Request, response: Response, line: Line) -> None:
    """End the session in the rows and in the browser."""
    if (secret := request.cookies.get(SESSION_COOKIE)) is not None:
        await run_in_threadpool(keys.close_session, line.database, secret)
    forget_session(response)


def forget_session(response: Response) -> None:
    """Have the browser forget a session that is over."""
    response.delete_cookie(SESSION_COOKIE)


def _set(request: Request, response: Response, name: str, value: str) -> None:
    # Behind a proxy that ends TLS the browser alone says that the site is https.
    secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
    response.set_cookie(name, value, httponly=True, samesite="lax", secure=secure)


def _token(secret: str) -> str:
    return hmac.new(secret.encode(), b"forms of vgen's pages", hashlib.sha256).hexdigest()
