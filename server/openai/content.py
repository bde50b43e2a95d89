"""The bytes of a video's files."""

from fastapi import Response
from fastapi.responses import StreamingResponse

from db.models import ArtifactRow
from pipeline.storage import Storage


def file_answer(storage: Storage, file: ArtifactRow) -> Response:
    """Stream a published file from the store."""
    headers = {"content-length": str(file.size), "etag": f'"{file.sha256}"'}
    return StreamingResponse(storage.chunks(file.key), media_type=file.media_type, headers=headers)
