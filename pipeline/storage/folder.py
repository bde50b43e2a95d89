"""Media in a folder: of this host, or a file system that all hosts share."""

import contextlib
import errno
import logging
import math
import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.digests import sha256_hex
from pipeline.errors import NotFoundError, RefusedError, RetryableError
from pipeline.files.object_names import TEMPORARY, check_key
from pipeline.settings.folder_trust import leads_out
from pipeline.storage.base import StoredObject
from pipeline.storage.local_files import CHUNK_BYTES, copy_hashing, open_source, os_errors, whole_file
from pipeline.storage.round_trip import check_round_trip

logger = logging.getLogger(__name__)
_ABSENT = (FileNotFoundError, NotADirectoryError)


class FolderStorage:
    """``Storage`` in a folder, one file per object. The folder is made by the first put.

    Content types and checksums are not kept: ``stat`` and ``list`` give None for ``sha256``.

    ``confined_to`` is a folder that somebody else may have made, with links in it: nothing is listed or removed through
    those that lead out of it.
    """

    def __init__(self, root: Path, *, confined_to: Path | None = None) -> None:
        self.root = root.absolute()
        self._confined_to = confined_to

    def put_file(self, key: str, path: Path, *, sha256: str, content_type: str) -> StoredObject:
        target = self._path(key)
        with open_source(path) as source, os_errors(target), whole_file(target) as file:
            size, digest = copy_hashing(source, file)
            if digest != sha256:
                raise RetryableError(f"{path}: sha256 is {digest}, expected {sha256}", code="storage_corrupt")
        return self._stored(key, size, digest)

    def put_bytes(self, key: str, data: bytes, *, content_type: str) -> StoredObject:
        target = self._path(key)
        with os_errors(target), whole_file(target) as file:
            file.write(data)
        return self._stored(key, len(data), sha256_hex(data))

    def stat(self, key: str) -> StoredObject | None:
        path = self._path(key)
        with os_errors(path):
            try:
                status = path.stat()
            except _ABSENT:
                return None
        return StoredObject(key, status.st_size, None, status.st_mtime) if stat.S_ISREG(status.st_mode) else None

    def read_bytes(self, key: str) -> bytes:
        path = self._path(key)
        with os_errors(path):
            try:
                return path.read_bytes()
            except (*_ABSENT, IsADirectoryError):
                raise NotFoundError(f"nothing is stored under {key} in {self.root}") from None

    def chunks(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        path = self._path(key)
        with os_errors(path):
            try:
                source = path.open("rb")
            except (*_ABSENT, IsADirectoryError):
                raise NotFoundError(f"nothing is stored under {key} in {self.root}") from None
            with source:
                source.seek(start)
                left = math.inf if stop is None else stop - start
                while left > 0 and (chunk := source.read(int(min(CHUNK_BYTES, left)))):
                    left -= len(chunk)
                    yield chunk

    def download(self, key: str, path: Path) -> None:
        source_path = self._path(key)
        with os_errors(source_path):
            try:
                source = source_path.open("rb")
            except (*_ABSENT, IsADirectoryError):
                raise NotFoundError(f"nothing is stored under {key} in {self.root}") from None
        with source, os_errors(path), whole_file(path) as file:
            copy_hashing(source, file)

    def delete(self, key: str) -> None:
        path = self._path(key)
        if self._linked_out(path):
            logger.warning("not removed", extra={"reason": self._objection(path)})
            return
        with os_errors(path):
            with contextlib.suppress(*_ABSENT):
                path.unlink()
            self._remove_empty_folders(path.parent)

    def delete_all(self, keys: Sequence[str]) -> None:
        for path in map(self._path, keys):
            if self._linked_out(path):
                raise RefusedError(self._objection(path), code="storage_denied")
        for key in keys:
            self.delete(key)

    def drop_unfinished(self, *, older_than_s: float, dry_run: bool = False) -> Sequence[str]:
        """Drafts of files whose process was killed before it gave them their name."""
        dropped: list[str] = []
        with os_errors(self.root):
            if self._leads_out(self.root):
                return dropped
            for draft in sorted(self.root.rglob(f"{TEMPORARY}*")):
                with contextlib.suppress(FileNotFoundError):  # it got its name, or was removed
                    if time.time() - draft.stat().st_mtime >= older_than_s:
                        dropped.append(str(draft))
                        if not dry_run:
                            draft.unlink()
                            self._remove_empty_folders(draft.parent)
        return dropped

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Objects whose keys begin with ``prefix``, by key."""
        with os_errors(self.root):
            yield from self._walk("", prefix)

    def url(self, key: str, *, expires_s: int) -> str:
        """A ``file://`` URL, which never expires."""
        return self._path(key).as_uri()

    def check(self) -> None:
        check_round_trip(self)

    def _linked_out(self, path: Path) -> bool:
        """Whether a link below the store's own folder leads out of both."""
        return self._leads_out(path.parent) and leads_out(path.parent, self.root)

    def _objection(self, path: Path) -> str:
        return (
            f"{path} is not removed: a link leads out of {self._confined_to}, which is not trusted; to allow it: "
            f"VGEN_TRUSTED_FOLDERS={self._confined_to}"
        )

    def _leads_out(self, folder: Path) -> bool:
        return self._confined_to is not None and leads_out(folder, self._confined_to)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _stored(self, key: str, size: int, sha256: str) -> StoredObject:
        """Return what is there after a put, read back from the file system."""
        stored = self.stat(key)
        if stored is None or stored.size != size:
            actual = "nothing" if stored is None else f"{stored.size} bytes"
            raise RetryableError(f"{self._path(key)} has {actual} after {size} were put", code="storage_corrupt")
        return StoredObject(key, size, sha256, stored.modified_at)

    def _remove_empty_folders(self, folder: Path) -> None:
        while folder != self.root:
            try:
                folder.rmdir()
            except FileNotFoundError:  # another delete was faster: go on above
                pass
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    return
                raise
            folder = folder.parent

    def _walk(self, folder: str, prefix: str) -> Iterator[StoredObject]:
        """Walk the folder in the order of S3: by the keys' UTF-8 bytes."""
        if self._leads_out(self.root / folder):
            return
        try:
            with os.scandir(self.root / folder) as entries:
                names = [(f"{folder}{entry.name}" + "/" * entry.is_dir(), entry) for entry in entries]
        except _ABSENT:
            return
        for key, entry in sorted(names, key=lambda item: os.fsencode(item[0])):
            if key.endswith("/"):
                if key.startswith(prefix) or prefix.startswith(key):
                    yield from self._walk(key, prefix)
            elif key.startswith(prefix) and not entry.name.startswith(TEMPORARY):
                with contextlib.suppress(FileNotFoundError):  # deleted while listing
                    status = entry.stat()
                    yield StoredObject(key, status.st_size, None, status.st_mtime)
