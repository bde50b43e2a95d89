"""The protocol of a store of media, which the folder and S3 forms both keep."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredObject:
    """The store's facts about an object."""

    key: str
    size: int
    sha256: str | None
    """The digest recorded at the put, where the store keeps it."""
    modified_at: float
    """Seconds since 1970, by the store's clock."""


class Storage(Protocol):
    """A place for objects under slash-separated keys.

    Every method raises ``RetryableError`` when the store cannot be reached or is throttling, and ``RefusedError``
    (code ``storage_denied`` or ``storage_missing``) for wrong keys, a missing bucket or a folder that is not writable.
    """

    def put_file(self, key: str, path: Path, *, sha256: str, content_type: str) -> StoredObject:
        """Store a file's bytes, all or nothing, and check what arrived.

        An object that is already there under the same key is put again, so that its age is fresh.
        Raises RetryableError (code ``storage_corrupt``) when size or checksum differ afterwards.
        """

    def put_bytes(self, key: str, data: bytes, *, content_type: str) -> StoredObject: ...

    def stat(self, key: str) -> StoredObject | None:
        """Return what is stored under the key; None when nothing is."""

    def read_bytes(self, key: str) -> bytes:
        """Raises NotFoundError when nothing is there."""

    def chunks(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from ``start`` up to ``stop``, or to the end, in pieces, as they come; their digest is not checked.

        Raises NotFoundError, at the first piece, when nothing is there.
        """

    def download(self, key: str, path: Path) -> None:
        """Write the object to a file, all or nothing. Raises NotFoundError when nothing is there."""

    def delete(self, key: str) -> None:
        """Remove it; no error when nothing is there."""

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove many; no error where nothing is there. What could not be removed raises, after all were tried."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Objects whose keys begin with ``prefix``, by key, page by page."""

    def drop_unfinished(self, *, older_than_s: float, dry_run: bool = False) -> Sequence[str]:
        """Remove what puts left behind that never ended (drafts, parts of an upload), begun so long ago; their names.

        With ``dry_run`` they are only named.
        """

    def url(self, key: str, *, expires_s: int) -> str:
        """A URL that fetches the object with a plain GET. Raises InputError when expires_s is over 7 days (S3)."""

    def check(self) -> None:
        """Put, read, list and delete small objects; raises as above when the store cannot be used."""
