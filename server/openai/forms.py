"""The body of a request, however it is encoded: fields by name, and the files that came with it."""

import re
import secrets
import shutil
import urllib.parse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request

from pipeline.digests import canonical_json, sha256_hex
from pipeline.files.digests import file_sha256
from pipeline.files.names import broken_rule
from pipeline.inputs.collector import Downloads
from server.errors import ApiError
from server.form_bodies import form_in_parts, not_a_form
from server.json_bodies import json_object
from server.openai.brackets import nested

MAX_FIELDS = 300
_JSON = ("application/json", "text/plain", "application/octet-stream", "")
_URLENCODED = "application/x-www-form-urlencoded"


@dataclass
class Body:
    """The fields of a request; the value of one that is a file is a name of ``files``."""

    fields: dict[str, object]
    files: dict[str, Path] = field(default_factory=dict)
    folder: Downloads | None = None
    """The folder of the files, which exists as long as somebody holds it."""

    def fingerprint(self, route: str) -> str:
        """Return the digest of what was asked for; a file counts by its bytes, not by its name or its boundary."""
        digests = {name: file_sha256(path) for name, path in self.files.items()}
        return sha256_hex(canonical_json([route, _replaced(self.fields, digests)]))


def _replaced(value: object, digests: dict[str, str]) -> object:
    if isinstance(value, dict):
        return {name: _replaced(item, digests) for name, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, digests) for item in value]
    return digests.get(value, value) if isinstance(value, str) else value


async def read_body(request: Request) -> Body:
    """Read JSON, a form or a form in parts. Raises ApiError: 400, 415."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "a body with a content-encoding is not read: send it plain", code="unsupported_media_type")
    if media_type == "multipart/form-data":
        return await _read_parts(request)
    if media_type == _URLENCODED:
        data = await request.body()
        # curl labels whatever --data holds as a form.
        return Body(json_object(data) if data.lstrip()[:1] in (b"{", b"[") else nested(_pairs(data)))
    if media_type in _JSON or media_type.endswith("+json"):
        return Body(json_object(await request.body()))
    message = f"{media_type[:100]!r} is not a valid content-type: use application/json or multipart/form-data"
    raise ApiError(415, message, code="unsupported_media_type")


def _pairs(data: bytes) -> list[tuple[str, object]]:
    try:
        text = data.decode("utf-8").strip()
        return [*urllib.parse.parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)]
    except ValueError as error:  # also of a name or value that is not UTF-8
        raise not_a_form(str(error)) from None


async def _read_parts(request: Request) -> Body:
    async with form_in_parts(request, max_files=MAX_FIELDS, max_fields=MAX_FIELDS) as form:
        return await run_in_threadpool(_kept, form.multi_items())


def _kept(items: Sequence[tuple[str, object]]) -> Body:
    """Write the uploaded files to a folder; their fields have the names by which they are called there."""
    body = Body({})
    body.fields = nested(_named(items, body))
    return body


def _named(items: Iterable[tuple[str, object]], body: Body) -> Iterable[tuple[str, object]]:
    for name, value in items:
        if not isinstance(value, UploadFile):
            yield name, value
        elif value.size or value.filename:
            body.folder = body.folder or Downloads()
            # Not to be guessed: a field's text must not name another request's file, nor this one's by chance.
            called = f"upload-{secrets.token_hex(16)}"
            path = body.folder.path / str(len(body.files)) / _file_name(value.filename or "")
            path.parent.mkdir()
            with path.open("xb") as file:
                shutil.copyfileobj(value.file, file)
            body.files[called] = path
            yield name, called


def _file_name(given: str) -> str:
    """The client's name for a file, for people, where it is safe as a part of a path."""
    name = re.split(r"[/\\]", given)[-1]
    return "upload" if broken_rule(name) else name
