"""Chooses the real parts by the settings."""

import re
import urllib.parse
from pathlib import Path

from pipeline.errors import RefusedError, SettingsError
from pipeline.object_names import check_key
from pipeline.settings import Settings
from pipeline.storage import FolderStorage, Storage

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # Amazon S3, general purpose bucket naming rules
_RULE = "must be a folder, a file:///folder URL or s3://bucket/prefix"


def make_storage(settings: Settings) -> Storage:
    """The store that ``settings.effective_storage`` names; nothing is read or written yet.

    Raises:
        SettingsError: it is not a folder, a ``file://`` or an ``s3://`` URL.
    """
    value = settings.effective_storage
    scheme, separator, address = value.partition("://")
    if not value.strip() or "\0" in value:
        raise SettingsError(f"VGEN_STORAGE {value!r}: {_RULE}")
    if not separator:
        return _folder_storage(settings, Path(value).expanduser())
    if scheme == "file":
        parts = urllib.parse.urlsplit(value)
        if parts.netloc not in ("", "localhost") or not parts.path or parts.query or parts.fragment:
            raise SettingsError(f"VGEN_STORAGE {value!r}: {_RULE}; a file URL names an absolute path of this host")
        return _folder_storage(settings, Path(urllib.parse.unquote(parts.path)))
    if scheme != "s3":
        raise SettingsError(f"VGEN_STORAGE {value!r}: {_RULE}")
    return _s3_storage(settings, value, address)


def _folder_storage(settings: Settings, root: Path) -> Storage:
    return FolderStorage(root, confined_to=settings.confined_to(root))


def _s3_storage(settings: Settings, value: str, address: str) -> Storage:
    bucket, _, prefix = address.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise SettingsError(
            f"VGEN_STORAGE {value!r}: bucket {bucket!r} must have 3 to 63 lower-case letters, digits, dots and hyphens"
        )
    if prefix.strip("/"):
        try:
            check_key(prefix.strip("/"))
        except RefusedError as error:
            raise SettingsError(f"VGEN_STORAGE {value!r}: {error}") from None
    from pipeline.storage.s3 import S3Storage  # noqa: PLC0415  # boto3 is slow to load, and solo runs need none

    return S3Storage(bucket, prefix, settings.s3)
