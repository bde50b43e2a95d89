"""Names of media types, and the aliases that browsers, servers and programs use."""

from collections.abc import Iterable, Mapping

OTHER_NAMES: Mapping[str, str] = {
    "image/jpg": "image/jpeg",
    "image/jpe": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-jpeg": "image/jpeg",
    "image/mpo": "image/jpeg",
    "image/x-png": "image/png",
    "image/apng": "image/png",
    "image/vnd.mozilla.apng": "image/png",
    "image/x-webp": "image/webp",
    "application/mp4": "video/mp4",
    "video/x-mp4": "video/mp4",
    "video/mpeg4": "video/mp4",
    "video/x-m4v": "video/mp4",
    "video/m4v": "video/mp4",
    "video/quicktime": "video/mp4",
    "video/x-quicktime": "video/mp4",
    "video/3gpp": "video/mp4",
    "video/3gpp2": "video/mp4",
    "video/matroska": "video/x-matroska",
    "application/x-matroska": "video/x-matroska",
    "video/webm": "video/x-matroska",
    "video/x-webm": "video/x-matroska",
    "video/avi": "video/x-msvideo",
    "video/vnd.avi": "video/x-msvideo",
    "video/msvideo": "video/x-msvideo",
    "application/x-troff-msvideo": "video/x-msvideo",
}
UNTYPED = frozenset({"", "application/octet-stream", "binary/octet-stream", "application/x-octet-stream"})
"""The types that say nothing about the content: the reader judges."""


def plain_type(text: str) -> str:
    """The one name of a media type: without parameters, in lower case, other names resolved.

    ``text`` is the value of a Content-Type header or of a data URL.
    """
    bare = text.partition(";")[0].strip().lower()
    return OTHER_NAMES.get(bare, bare)


def allows(text: str, types: Iterable[str]) -> bool:
    """Return whether a declared type is one of ``types``, or says nothing."""
    plain = plain_type(text)
    return plain in UNTYPED or plain in {plain_type(name) for name in types}
