"""Every refusal and failure as an answer in the form of OpenAI's API, whoever raised it."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pipeline.errors import (
    MAX_PROBLEMS_SHOWN,
    ConflictError,
    InputError,
    NotFoundError,
    Problem,
    QuotaError,
    RefusedError,
    RetryableError,
    ServiceUnavailableError,
    TooManyAtOnceError,
    VgenError,
)
from pipeline.prompts.numbers import show
from pipeline.redaction import redact

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5
"""OpenAI's SDKs do not retry at all where they are told to wait for more than 120 s."""
_STATUS_OF: tuple[tuple[type[VgenError], int], ...] = (
    (InputError, 400),
    (NotFoundError, 404),
    (ConflictError, 400),  # OpenAI's SDKs try a 409 again, and it would be refused again
    (ServiceUnavailableError, 503),
    (RetryableError, 503),
)
_UNKNOWN = "unknown_fields"
"""The type of pydantic's error for fields that a body does not have (``server.native.bodies``)."""
_OPTION = re.compile(r"(?<![\w-])--([a-z][a-z-]*[a-z])")
_COMMANDS = re.compile(r"; `vgen [^`]*`[^;\n]*")
_FIELDS = {"metrics": "score"}
"""What fields are called over HTTP whose name only the rules know."""
_CODE_OF = {404: "unknown_url", 405: "method_not_allowed", 413: "request_too_large"}


class ApiError(Exception):
    """An answer that refuses a request: its status, and what the body's ``error`` says."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        self.details = dict(details or {})
        """What the body's ``error`` says besides."""


def error_body(status: int, message: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return the body of a failed request, as OpenAI's SDKs read it."""
    kind = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": redact(message), "type": kind, "param": param, "code": code}}


def answer(error: ApiError) -> JSONResponse:
    headers = {"retry-after": str(RETRY_AFTER_S), **error.headers} if error.status == 503 else error.headers
    body = error_body(error.status, error.message, code=error.code, param=error.param)
    body["error"].update(error.details)
    return JSONResponse(body, error.status, headers)


def of_vgen_error(error: VgenError) -> ApiError:
    """Return the answer to an error that vgen raised on purpose."""
    problems = [_outside(item) for item in error.problems] if isinstance(error, InputError) else []
    message = str(InputError(problems)) if problems else plain(str(error)) or error.code
    if isinstance(error, RefusedError):
        status = 503 if error.code.startswith("storage_") else 400
    else:
        status = next((status for kind, status in _STATUS_OF if isinstance(error, kind)), 500)
    if isinstance(error, QuotaError):
        # Within a day nobody should ask again; what is only too much at once may be soon.
        headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
        if not isinstance(error, TooManyAtOnceError):
            headers["x-should-retry"] = "false"
        return ApiError(429, message, code=error.code, headers=headers)
    details = _places(problems) if any(problem.line is not None for problem in problems) else {}
    param = problems[0].field if problems else None
    return ApiError(status, message, code=error.code, param=param, details=details)


def _outside(problem: Problem) -> Problem:
    """A mistake in the words of those who have no command line."""
    field = None if problem.field is None else problem.field.removeprefix("--").replace("-", "_").lower()
    field = _FIELDS.get(field or "", field)
    return replace(problem, field=field, message=plain(problem.message))


def plain(message: str) -> str:
    """Return a message without advice on commands, and with options (``--max-cost``) called as fields are."""
    return _OPTION.sub(lambda option: option[1].replace("-", "_"), _COMMANDS.sub("", message))


def of_validation(error: RequestValidationError) -> ApiError:
    """Return the answer to parameters or a body that a route does not take."""
    mistakes = [mistake for item in error.errors() for mistake in _mistakes(item)]
    message = "\n".join(f"{name}: {text}" for name, text in mistakes)
    code = "unknown_parameter" if error.errors()[0]["type"] == _UNKNOWN else "invalid_value"
    return ApiError(400, message, code=code, param=mistakes[0][0])


def _places(problems: Sequence[Problem]) -> dict[str, Any]:
    """Where the mistakes of a file are."""
    shown = [
        {"message": redact(item.message), "param": item.field, "file": item.file, "line": item.line}
        for item in problems[:MAX_PROBLEMS_SHOWN]
    ]
    return {"line": problems[0].line, "problems": shown}


def internal_error() -> JSONResponse:
    """Return the answer to a bug: its traceback is in the log, not here."""
    return answer(internal())


def internal() -> ApiError:
    return ApiError(500, "an internal error; the server's log has it under this request's id", code="internal")


def add_handlers(app: FastAPI) -> None:
    """Have every exception of a route answered in OpenAI's form; what is left reaches ``RequestIds``."""

    @app.exception_handler(ApiError)
    async def _refused(request: Request, error: ApiError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(VgenError)
    async def _vgen_error(request: Request, error: VgenError) -> JSONResponse:
        translated = of_vgen_error(error)
        if translated.status >= 500:
            of = {"request_id": request.state.request_id, "path": request.url.path}
            logger.warning("request failed", extra={**of, "reason": str(error)})
        return answer(translated)

    @app.exception_handler(DataError)
    async def _cannot_be_kept(request: Request, error: DataError) -> JSONResponse:
        message = "a value has characters that the database cannot store, such as a NUL (U+0000)"
        return answer(ApiError(400, message, code="invalid_value"))

    @app.exception_handler(HTTPException)
    async def _http_error(request: Request, error: HTTPException) -> JSONResponse:
        message = str(error.detail)
        if error.status_code in (404, 405):
            message = f"{request.method} {request.url.path[:200]}: {message}"
        if error.status_code == 404 and request.url.path.endswith("/"):
            message += f" (did you mean {request.url.path[:200].rstrip('/') or '/v1/videos'}?)"
        code = _CODE_OF.get(error.status_code)
        return answer(ApiError(error.status_code, message, code=code, headers=error.headers))

    @app.exception_handler(ClientDisconnect)
    async def _gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # nobody is there to read it

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(of_validation(error))


def _mistakes(item: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each wrong field or parameter, and what is wrong with it."""
    if item["type"] == _UNKNOWN:
        hints = item["ctx"]["hints"]
        return [(name, f"is not a field of this request{near and f' ({near})'}") for name, near in hints.items()]
    return [_mistake(item)]


def _mistake(item: Mapping[str, Any]) -> tuple[str, str]:
    name = str((*item["loc"][1:], "body")[0])
    if item["type"] == "missing":
        return name, "is missing"
    if item["type"] == "value_error":
        return name, f"{show(item['input'])} {item['msg'].removeprefix('Value error, ')}"
    return name, f"{show(item['input'])} is not possible: {item['msg']}"
