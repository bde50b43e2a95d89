"""``/sign-in`` and ``/sign-out``: a key opens a session of the browser."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from starlette.responses import RedirectResponse

from pipeline.redaction import redact
from server.auth import CurrentVisit
from server.auth.visit import close_session, form_token, open_session, require_own_form
from server.database import ServedLine
from server.errors import ApiError
from server.pages.address import own_path
from server.pages.rendering import page
from server.pages.route import PageRoute

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/sign-in")
def ask_for_key(request: Request, next: str = "/") -> Response:  # noqa: A002 - the field's name
    """Show the form for a key."""
    return _form(request, next)


@router.post("/sign-in")
async def sign_in(
    request: Request,
    line: ServedLine,
    key: Annotated[str, Form()] = "",
    token: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "/",  # noqa: A002
) -> Response:
    """Open a session, and go on to the page that was asked for."""
    require_own_form(request, form_token(request), token)
    response = RedirectResponse(own_path(next), 303)
    try:
        await open_session(request, response, line, key.strip())
    except ApiError as error:
        return _form(request, next, problem=redact(error.message), status=401)
    return response


@router.post("/sign-out")
async def sign_out(
    request: Request, line: ServedLine, visit: CurrentVisit, token: Annotated[str, Form()] = ""
) -> Response:
    """End the session; the key stays valid."""
    require_own_form(request, visit.token, token)
    response = RedirectResponse("/sign-in", 303)
    await close_session(request, response, line)
    return response


def _form(request: Request, wanted: str, *, problem: str | None = None, status: int = 200) -> Response:
    values = {"token": form_token(request), "next": own_path(wanted), "problem": problem}
    return page(request, None, "sign_in.html", status, **values)
