"""The bytes of a video's files: whole, in part, only when they have changed, or where else they are."""

import itertools
import re
import urllib.parse
from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from db.models import ArtifactRow
from pipeline.errors import NotFoundError
from pipeline.storage import Storage
from server.errors import ApiError

EXPIRES_S = 3600
_ENDINGS = {"video/mp4": "mp4", "image/jpeg": "jpg", "image/webp": "webp", "image/png": "png"}
_RANGE = re.compile(r"\s*bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", re.IGNORECASE)


def file_answer(request: Request, storage: Storage, file: ArtifactRow, *, redirect: bool) -> Response:
    """The answer to a GET or HEAD of a published file. Raises NotFoundError: it is no longer in the store.
    ApiError: 416."""
    etag = f'"{file.sha256}"'
    headers = {
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "content-disposition": f'inline; filename="{file.job_id}.{_ENDINGS.get(file.media_type, "bin")}"',
        "etag": etag,
        "x-content-type-options": "nosniff",
    }
    if _named(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)
    if storage.stat(file.key) is None:
        raise NotFoundError(file.key)
    whole = request.headers.get("if-range", etag) != etag  # what the client has a part of is something else
    wanted = None if whole else _part(request.headers.get("range"), file.size)
    if wanted == ():
        text = f"{request.headers['range'][:80]!r} is not a part of the file, which has {file.size} bytes"
        headers = {"content-range": f"bytes */{file.size}", "etag": etag}
        raise ApiError(416, text, code="invalid_range", param="Range", headers=headers)
    start, stop = wanted or (0, file.size)
    headers["content-length"] = str(stop - start)
    if wanted:
        headers["content-range"] = f"bytes {start}-{stop - 1}/{file.size}"
    status = 206 if wanted else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=file.media_type)
    if redirect and (url := _elsewhere(request, storage, file)) is not None:
        return RedirectResponse(url, 302, {"cache-control": "no-store"})
    # The first bytes are here before the answer begins: until then a store that is away is an error of its own.
    chunks = storage.chunks(file.key, start=start, stop=stop)
    first = next(chunks, b"")
    return StreamingResponse(_exactly(stop - start, first, chunks), status, headers, media_type=file.media_type)


def _exactly(size: int, first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The bytes, of which no more are sent than were announced; fewer end the connection."""
    for chunk in itertools.chain((first,), chunks):
        if chunk:
            yield chunk[:size]
            size -= len(chunk)
        if size <= 0:
            return


def _named(header: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return etag in tags or tags == ["*"]


def _part(header: str | None, size: int) -> tuple[int, int] | tuple[()] | None:
    """The first byte and the one after the last; None: all of it; empty: there is no such part.

    A header that is no range of bytes, or that names several, is answered with all of it, as RFC 9110 allows.
    """
    match = None if header is None else _RANGE.fullmatch(header)
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        last = min(int(match[2]), size)
        return (size - last, size) if last else ()
    start, stop = int(match[1]), size if not match[2] else min(int(match[2]) + 1, size)
    if match[2] and int(match[2]) < start:
        return None
    return (start, stop) if start < size else ()


def _elsewhere(request: Request, storage: Storage, file: ArtifactRow) -> str | None:
    """Return the store's own URL for the file; None where it is no web address, or this server's.

    A client sends its key on to the same origin, and a store refuses a request that is signed twice.
    """
    url = storage.url(file.key, expires_s=EXPIRES_S)
    parts = urllib.parse.urlsplit(url)
    host = request.headers.get("host", "")
    return url if parts.scheme in ("http", "https") and parts.netloc.lower() != host.lower() else None
