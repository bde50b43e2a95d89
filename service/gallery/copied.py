"""A self-contained gallery: clips, small posters and strips are copied beside its pages."""

from collections.abc import Mapping

from pipeline.digests import sha256_hex
from pipeline.encoding.pictures import small_poster
from pipeline.errors import NotFoundError, RetryableError
from pipeline.storage.base import Storage
from service.gallery.clips import Clip
from service.gallery.media import AWAY, DAMAGED, GONE, Placed
from service.views.clips import FileView

_POSTER_WIDTH = 320
"""Pixels: a card is up to 320 wide. At 480, decoding took nearly half of what a scroll costs; the clip itself, which is
shown under the pointer and in the details, has all its pixels."""
_ENDINGS = {
    "video/mp4": "mp4",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/png": "png",
    "application/json": "json",
}


def copied(source: Storage, target: Storage, before: Mapping[str, tuple[str, int]]) -> "_Copied":
    """Return media that are copied to ``target`` as pages ask for them.

    ``before`` are the digest and size of files that are there already, by name: they are not copied again.
    """
    return _Copied(source, target, before)


class _Copied:
    def __init__(self, source: Storage, target: Storage, before: Mapping[str, tuple[str, int]]) -> None:
        self._source, self._target, self._before = source, target, before
        self._away = False

    def place(self, clip: Clip) -> Placed:
        addresses: dict[str, str] = {}
        objects: dict[str, tuple[str, int]] = {}
        missing = None
        for kind, file in clip.files.items():
            name = _name(clip.job.id, kind, file)
            if not (facts := self._unchanged(name, file)):
                data, problem = self._read(file)
                if data is None:
                    missing = problem
                    continue
                facts = self._put(name, kind, file, data)
            addresses[kind] = name
            objects[name] = facts
        return Placed(addresses, missing, objects)

    def _unchanged(self, name: str, file: FileView) -> tuple[str, int] | None:
        facts = self._before.get(name)
        if facts is None or facts[0] != file.sha256:
            return None
        stored = self._target.stat(name)
        return facts if stored is not None and stored.size == facts[1] else None

    def _read(self, file: FileView) -> tuple[bytes | None, str | None]:
        """Return the file's bytes, or why they are not there."""
        if self._away:  # each further try would wait for as long as the first
            return None, AWAY
        try:
            data = self._source.read_bytes(file.key)
        except NotFoundError:
            return None, GONE
        except RetryableError:
            self._away = True
            return None, AWAY
        return (data, None) if sha256_hex(data) == file.sha256 else (None, DAMAGED)

    def _put(self, name: str, kind: str, file: FileView, data: bytes) -> tuple[str, int]:
        """Put a file beside the pages; the digest of what it was made of, and its size here."""
        media_type = file.media_type
        if kind == "poster":
            data, media_type = small_poster(data, _POSTER_WIDTH), "image/webp"
        self._target.put_bytes(name, data, content_type=media_type)
        return file.sha256, len(data)


def _name(job_id: str, kind: str, file: FileView) -> str:
    if kind == "poster":
        return f"clips/{job_id}.poster.webp"
    ending = _ENDINGS.get(file.media_type, "bin")
    return f"clips/{job_id}.{ending}" if kind in ("video", "sidecar") else f"clips/{job_id}.{kind}.{ending}"
