"""Errors of this host's own disks, told from those of the network, and in vgen's words."""

import errno
from pathlib import Path

from pipeline.errors import RefusedError, RetryableError, StageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NOT_A_PLACE = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}


def is_of_own_disk(error: OSError) -> bool:
    """Return whether a file of ours could not be written, rather than another host not be reached."""
    return error.errno in _FULL | _DENIED | _NOT_A_PLACE | {errno.EIO}


def translate_os_error(error: OSError, path: Path) -> StageError:
    """The vgen error for a failed operation on a file.

    ``disk_full`` and ``temporarily_unavailable`` are retryable; ``storage_denied`` (permissions) and ``storage_key``
    (a file stands where a folder is needed, or the reverse) are refused.
    """
    message = f"{path}: {error.strerror or error}"
    if error.errno in _FULL:
        return RetryableError(message, code="disk_full")
    if error.errno in _DENIED:
        return RefusedError(message, code="storage_denied")
    if error.errno in _NOT_A_PLACE:
        return RefusedError(message, code="storage_key")
    return RetryableError(message)
