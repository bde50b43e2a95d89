"""The body of a request, however it is encoded: fields by name, and the files that came with it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request

from pipeline.files.json_reader import JsonError, parse_json
from pipeline.inputs.collector import Downloads
from server.errors import ApiError

_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


@dataclass
class Body:
    """The fields of a request; the value of one that is a file is a name of ``files``."""

    fields: dict[str, object]
    files: dict[str, Path] = field(default_factory=dict)
    folder: Downloads | None = None
    """The folder of the files, which exists as long as somebody holds it."""


async def read_body(request: Request) -> Body:
    """Read JSON, a form or a form in parts. Raises ApiError: 400."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in _FORMS:
        return await _read_form(request)
    return Body(_json_object(await request.body()))


def _json_object(data: bytes) -> dict[str, object]:
    try:
        value = parse_json(data.decode("utf-8")) if data.strip() else {}
    except UnicodeDecodeError:
        raise ApiError(400, "the body is not UTF-8 text", code="invalid_json") from None
    except JsonError as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body is not a JSON object", code="invalid_json")
    return value


async def _read_form(request: Request) -> Body:
    body = Body({})
    async with request.form() as form:
        for name, value in form.multi_items():
            body.fields[name] = await run_in_threadpool(_kept, value, body) if isinstance(value, UploadFile) else value
    return body


def _kept(upload: UploadFile, body: Body) -> str:
    """Write an uploaded file to the body's folder; the name by which its field calls it."""
    body.folder = body.folder or Downloads()
    name = f"upload:{len(body.files)}"
    path = body.folder.path / str(len(body.files))
    with path.open("xb") as file:
        shutil.copyfileobj(upload.file, file)
    body.files[name] = path
    return name
