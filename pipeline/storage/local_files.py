"""Local files: written atomically, and with their errors in vgen's terms."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pipeline.errors import InputError, RetryableError
from pipeline.files.disk_errors import translate_os_error
from pipeline.files.object_names import TEMPORARY
from pipeline.files.regular import open_regular_file

CHUNK_BYTES = 1024 * 1024


@contextlib.contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """Translates every OSError of the block."""
    try:
        yield
    except OSError as error:
        raise translate_os_error(error, path) from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name only when the block ends without an error, and is on disk by then.

    Folders above it are made; a file of that name is replaced in one step. Raises OSError.
    """
    draft, file = _open_draft(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _open_draft(path: Path) -> tuple[Path, IO[bytes]]:
    draft = path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}")
    for last_try in (False, False, False, True):
        _make_folder(path.parent)
        try:
            return draft, draft.open("xb")
        except FileNotFoundError:  # a delete found the folder empty and removed it in between
            if last_try:
                raise
    raise AssertionError("unreachable")


def _make_folder(folder: Path) -> None:
    """Make the folder and those above it, each on disk before anything is put into it."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        _make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder survive a loss of power."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def open_source(path: Path) -> IO[bytes]:
    """A file that is to be stored.

    Raises:
        RetryableError: code ``source_unreadable``; it is gone or cannot be read, and must be made again.
    """
    try:
        return open_regular_file(path, what="it")
    except InputError as error:
        raise RetryableError(f"{path}: {error.problems[0].message}", code="source_unreadable") from error


def copy_hashing(source: IO[bytes], target: IO[bytes]) -> tuple[int, str]:
    """Copy all that is left of ``source``; returns the number of bytes and their sha256."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        size += target.write(chunk)
    return size, digest.hexdigest()
