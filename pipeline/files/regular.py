"""Opens files that users name: only regular files, without ever waiting, and up to a size limit.

A path that a user or a file gives may lead to a device that never ends (``/dev/zero``), to a pipe that nobody writes
into, to a folder, or to a file of ``/proc`` that says it has no bytes and gives any number of them. Each ends here with
one sentence.
"""

import errno
import io
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import InputError, Problem
from pipeline.files.names import printable

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISLNK, "a link"),
)
BYTES_PER_MB = 1024 * 1024
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
"""The flag to go through a folder, which on Linux needs no right to list it."""


def open_regular_file(path: str | os.PathLike[str], *, what: str) -> BinaryIO:
    """The file at ``path``, opened for reading bytes; links are followed.

    ``what`` names the file in messages, for example "the suite" or "the input image". The open does not wait, whatever
    the path leads to. Raises InputError for a path that cannot be opened, and for one that leads to anything but a
    regular file.
    """
    printable_path = _shown(path)
    try:
        # A device is not even opened: some act on it. The file may change until then, so it is looked at once more.
        _require_regular(os.stat(path), printable_path, what)  # noqa: PTH116 - a path may be text or bytes
        descriptor = os.open(path, _READ)
    except (OSError, ValueError) as error:  # ValueError: a null byte, or a character that no file name has
        raise InputError([Problem(f"{what} cannot be read: {reason(error)}", printable_path)]) from error
    return _checked(descriptor, printable_path, what)


def open_regular_file_below(root: Path, path: Path, *, what: str) -> BinaryIO:
    """Do what ``open_regular_file`` does, for an absolute path without links that must lie in ``root`` when opened.

    No link is followed below the root: one that was put there since the path was resolved leads nowhere else.

    Raises:
        InputError: as ``open_regular_file``; also for a link.
    """
    printable_path = _shown(path)
    folder = -1
    try:
        folder = os.open(root, _FOLDER)
        *folders, name = path.relative_to(root).parts
        for part in folders:
            inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        _require_regular(os.stat(name, dir_fd=folder, follow_symlinks=False), printable_path, what)
        descriptor = os.open(name, _READ | os.O_NOFOLLOW, dir_fd=folder)
    except (OSError, ValueError) as error:
        raise InputError([Problem(f"{what} cannot be read: {reason(error)}", printable_path)]) from error
    finally:
        if folder >= 0:
            os.close(folder)
    return _checked(descriptor, printable_path, what)


def read_regular_file(path: str | os.PathLike[str], *, what: str, limit_bytes: int) -> bytes:
    """All bytes of the regular file at ``path``.

    Raises InputError for what ``open_regular_file`` refuses, for more than ``limit_bytes`` bytes, and for a read that
    fails.
    """
    printable_path = _shown(path)
    with open_regular_file(path, what=what) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            # What a file says of its size is not all: one of /proc says 0, and one that is written to grows.
            content = file.read(limit_bytes + 1) if size <= limit_bytes else None
        except OSError as error:
            raise InputError([Problem(f"{what} cannot be read: {reason(error)}", printable_path)]) from error
    if content is None or len(content) > limit_bytes:
        raise InputError(
            [Problem(f"{what} is larger than {_size(limit_bytes)}, the most that is read", printable_path)]
        )
    return content


def reason(error: OSError | ValueError) -> str:
    """Return why a file could not be opened or read, in words without the path, which the message names already."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "the name has a character that no file name can have"


def _checked(descriptor: int, printable_path: str, what: str) -> BinaryIO:
    try:
        _require_regular(os.fstat(descriptor), printable_path, what)
        return io.BufferedReader(_Ready(descriptor, "rb"))
    except BaseException:
        os.close(descriptor)
        raise


class _Ready(io.FileIO):
    """A file that is never waited for: some of /proc are regular by their kind, and have nothing for now."""

    def readinto(self, buffer: Any, /) -> int:
        count = super().readinto(buffer)
        if count is None:
            raise BlockingIOError(errno.EAGAIN, "it gives nothing for now, and is not waited for")
        return count


def _require_regular(status: os.stat_result, printable_path: str, what: str) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kind = next((name for is_kind, name in KINDS if is_kind(status.st_mode)), "something else")
    raise InputError([Problem(f"{what} must be a regular file; this is {kind}", printable_path)])


def _size(limit_bytes: int) -> str:
    if limit_bytes >= BYTES_PER_MB:
        return f"{limit_bytes / BYTES_PER_MB:g} MB"
    return f"{limit_bytes} bytes"


def _shown(path: str | os.PathLike[str]) -> str:
    return printable(os.fspath(path))
