"""``/static``: stylesheet and scripts, for whoever asks; and the bytes of clips, for those who may see them."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import FileResponse

from db.models import ArtifactRow
from pipeline.errors import NotFoundError
from server.auth import Visit, seeing
from server.database import ServedLine
from server.errors import ApiError
from server.native.lookup import visible_job
from server.openai.content import file_answer
from server.pages.rendering import ASSETS, asset_digest
from server.thumbnails import MEDIA_TYPE

router = APIRouter(include_in_schema=False)
Viewer = Annotated[Visit, Depends(seeing("videos.read"))]
FOREVER = "max-age=31536000, immutable"
Kind = Literal["video", "poster", "thumbnail", "strip", "sidecar"]
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@router.get("/static/{name}")
def static(name: str, v: str = "") -> Response:
    """Return a file that pages load; under the address that they have for it, it never changes."""
    path = ASSETS.get(name)
    if path is None:
        raise ApiError(404, f"there is no file {name[:80]!r}", code="unknown_url")
    cached = f"public, {FOREVER}" if v == asset_digest(name) else "no-cache"
    headers = {"cache-control": cached, "x-content-type-options": "nosniff"}
    return FileResponse(path, headers=headers, media_type=_TYPES[path.suffix])


def media_url(job_id: str, kind: Kind, sha256: str) -> str:
    """Return the address of a clip's file, under which it never changes; a thumbnail has the digest of its poster."""
    return f"/media/{job_id}/{kind}?v={sha256[:16]}"


@router.get("/media/{job_id}/{kind}")
def media(request: Request, job_id: str, kind: Kind, line: ServedLine, visit: Viewer, v: str = "") -> Response:
    """Return the bytes of a clip's file. They come from here also where downloads are redirected: addresses of the
    store expire, and a page may stay open for days."""
    with line.database.reading() as session:
        stored = "poster" if kind == "thumbnail" else kind
        file = session.get(ArtifactRow, (visible_job(session, visit.caller, job_id).id, stored))
    try:
        if file is None:
            raise NotFoundError(job_id)
        small = line.thumbnails.of(line.storage, file) if kind == "thumbnail" else None
        response = (
            file_answer(request, line.storage, file, redirect=False)
            if small is None
            else Response(small, media_type=MEDIA_TYPE, headers={"x-content-type-options": "nosniff"})
        )
    except NotFoundError:
        text = f"the {kind} of job {job_id} is no longer kept"
        raise ApiError(404, text, code="video_expired", headers={"cache-control": "no-store"}) from None
    if v == file.sha256[:16]:
        response.headers["cache-control"] = f"private, {FOREVER}"
    response.headers["cross-origin-resource-policy"] = "same-origin"
    return response
