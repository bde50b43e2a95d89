"""A route of a page: what refuses or fails is a page, too, and who has no session is led to where one is opened."""

import logging
import urllib.parse
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse

from pipeline.errors import VgenError
from server.auth.visit import SESSION_COOKIE, forget_session
from server.errors import RETRY_AFTER_S, ApiError, internal, of_validation, of_vgen_error
from server.pages.rendering import page

logger = logging.getLogger(__name__)
_TITLES = {
    400: "This cannot be done",
    403: "This is not allowed",
    404: "This is not here",
    500: "Something is wrong here",
    503: "Something is away for now",
}


class PageRoute(APIRoute):
    """Answers in HTML, whatever happens."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handle(request)
            except ApiError as error:
                return _refused(request, error)
            except RequestValidationError as error:
                return _refused(request, of_validation(error))
            except DataError:
                return _refused(request, ApiError(400, "a value has characters that the database cannot store"))
            except VgenError as error:
                translated = of_vgen_error(error)
                if translated.status >= 500:
                    of = {"request_id": request.state.request_id, "path": request.url.path}
                    logger.warning("request failed", extra={**of, "reason": str(error)})
                return _refused(request, translated)
            except Exception:
                logger.exception("request failed", extra={"request_id": request.state.request_id})
                return _refused(request, internal())

        return answered


def _refused(request: Request, error: ApiError) -> Response:
    if error.status == 401:
        return _to_sign_in(request)
    title = _TITLES.get(error.status, _TITLES[400] if error.status < 500 else _TITLES[503])
    response = page(request, None, "error.html", error.status, title=title, message=error.message, code=error.code)
    if error.status == 503:
        response.headers["retry-after"] = str(RETRY_AFTER_S)
    return response


def add_unknown_page(app: FastAPI) -> None:
    """Have a browser that asks for a path that there is not get a page; programs get what they got before."""
    answered = cast(Callable[[Request, Exception], Awaitable[Response]], app.exception_handlers[HTTPException])

    async def page_or_answer(request: Request, error: Exception) -> Response:
        for_people = request.method in ("GET", "HEAD") and "text/html" in request.headers.get("accept", "")
        if not (isinstance(error, HTTPException) and error.status_code == 404 and for_people):
            return await answered(request, error)
        message = f"This server has nothing at {request.url.path[:200]}"
        return _refused(request, ApiError(404, message, code="unknown_url"))

    app.add_exception_handler(HTTPException, page_or_answer)


def _to_sign_in(request: Request) -> Response:
    back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    wanted = {"next": back} if request.method == "GET" and back != "/" else {}
    response = RedirectResponse("/sign-in" + (f"?{urllib.parse.urlencode(wanted)}" if wanted else ""), 303)
    if SESSION_COOKIE in request.cookies:
        forget_session(response)
    return response
