"""Forms in parts, read strictly: text is what it says it is, and what was cut off is no form."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

from server.errors import ApiError


class _StrictParser(MultiPartParser):
    ended = False

    def on_part_end(self) -> None:
        part = self._current_part
        if part.file is None:
            try:
                part.data.decode("utf-8")
            except UnicodeDecodeError:
                raise MultiPartException(f"field {part.field_name[:80]!r} is not UTF-8 text") from None
        super().on_part_end()

    def on_end(self) -> None:
        self.ended = True


@asynccontextmanager
async def form_in_parts(request: Request, *, max_files: int, max_fields: int) -> AsyncIterator[FormData]:
    """Read a form; its files are there as long as the block lasts. Raises ApiError: 400."""
    most = request.app.state.line.settings.serve.body_bytes
    parser = _StrictParser(
        request.headers, request.stream(), max_files=max_files, max_fields=max_fields, max_part_size=most
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise not_a_form(error.message) from None
    try:
        if not parser.ended:
            raise not_a_form("its last boundary is missing: it was cut off")
        yield form
    finally:
        await form.close()


def not_a_form(reason: str) -> ApiError:
    return ApiError(400, f"the body is not a valid form: {reason}", code="invalid_form")
