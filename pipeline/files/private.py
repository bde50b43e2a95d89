"""Folders and files that belong to this user alone, even below world-writable folders such as /dev/shm and /tmp.

What vgen makes has no permissions for others (the setting ``umask``). What is there already is used as it is, unless
somebody else could have put it there: below a folder that everybody may write to, a folder or link of another user is
refused.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path


def private_folder(path: Path) -> None:
    """Make the folder, and those above it, where they are missing; refuse it where it may be another user's.

    Raises:
        PermissionError: it, or one above it, is another user's and stands in a folder that everybody may write to; or
            it is such a folder itself, as /tmp is.
        OSError: it cannot be made.
    """
    require_own_folder(path)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    require_own_folder(path)  # also what was made by somebody else in between


def require_own(path: Path) -> None:
    """Refuse a file that another user has put, or linked, where this one expects its own.

    Raises:
        PermissionError: it belongs to another user, or is a link of one.
    """
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    if not _ours(status):
        raise _refusal(path, f"it belongs to user {status.st_uid}, not to this one ({os.geteuid()})")


def require_own_folder(path: Path) -> None:
    """Refuse a folder that somebody else could have put there; one that is not there yet is fine.

    Raises:
        PermissionError: as ``private_folder``.
    """
    path = path.absolute()
    visited: set[Path] = set()
    while path not in visited:
        visited.add(path)
        target = _followed(path)
        if target is None:
            break
        path = target
    else:
        return  # a circle of links, which the kernel refuses
    mode = 0
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode
    if mode & stat.S_IWOTH and mode & stat.S_ISVTX:
        raise _refusal(path, "it is for files of everybody: name a folder inside it")


def _followed(path: Path) -> Path | None:
    """The path with its first link followed; None when it has none. Raises PermissionError for what is refused."""
    for part in [*reversed(path.parents), path][1:]:
        try:
            status, shared = part.lstat(), _is_shared(part.parent)
        except OSError:  # not there yet, or not for us: whoever opens it gets the error
            return None
        is_link = stat.S_ISLNK(status.st_mode)
        if shared and not _ours(status):
            kind = "link" if is_link else "folder"
            raise _refusal(part, f"this {kind} is user {status.st_uid}'s, in a folder that everybody may write to")
        if is_link:
            return Path(os.path.normpath(part.parent / part.readlink() / path.relative_to(part)))
    return None


def _is_shared(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_IWOTH)


def _ours(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.geteuid())


def _refusal(path: Path, reason: str) -> PermissionError:
    return PermissionError(errno.EPERM, reason, str(path))
