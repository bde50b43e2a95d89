"""JSON in the body of a request, read strictly, whatever its client calls it."""

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.types import Message

from pipeline.files.json_reader import JsonError, parse_json
from server.auth import Permission, admit
from server.errors import ApiError


def json_object(data: bytes) -> dict[str, object]:
    """Read an object; no body is an empty one. Raises ApiError: 400."""
    try:
        value = parse_json(data.decode("utf-8")) if data.strip() else {}
    except UnicodeDecodeError:
        raise ApiError(400, "the body is not UTF-8 text", code="invalid_json") from None
    except JsonError as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body is not a JSON object", code="invalid_json")
    return value


class JsonRoute(APIRoute):
    """A route whose body is a JSON object, also where its client calls it a form, as curl does with ``--data``.

    Of who may not send it nothing is read: FastAPI reads a body before it looks at anything else.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        return self._read_first(handle) if self.body_field is not None else handle

    def _read_first(
        self, handle: Callable[[Request], Coroutine[Any, Any, Response]]
    ) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        permissions = list(_permissions(self.dependant))

        async def read_and_handle(request: Request) -> Response:
            await admit(request, request.app.state.line, permissions)
            data = await request.body()
            json_object(data)

            async def whole() -> Message:
                return {"type": "http.request", "body": data if data.strip() else b"{}", "more_body": False}

            others = [(name, value) for name, value in request.scope["headers"] if name != b"content-type"]
            headers = [*others, (b"content-type", b"application/json")]
            return await handle(Request({**request.scope, "headers": headers}, whole))

        return read_and_handle


def _permissions(dependant: Dependant) -> Iterator[Permission]:
    for inner in dependant.dependencies:
        if isinstance(inner.call, Permission):
            yield inner.call
        yield from _permissions(inner)
