"""The exit codes of `vgen`, which scripts can rely on. docs/cli.md lists them."""

import errno
from collections.abc import Mapping
from enum import IntEnum

from pipeline.errors import (
    ConflictError,
    InputError,
    NotFoundError,
    NotInstalledError,
    RefusedError,
    RetryableError,
    ServiceUnavailableError,
    SettingsError,
)
from pipeline.states import JobState


class ExitCode(IntEnum):
    """The exit codes of every command."""

    DONE = 0
    INTERNAL = 1
    USAGE = 2
    INCOMPLETE = 3
    UNREACHABLE = 4
    INTERRUPTED = 130


MEANING: dict[ExitCode, str] = {
    ExitCode.DONE: "Success.",
    ExitCode.INTERNAL: "An internal error: a bug, or something that the machine could not do.",
    ExitCode.USAGE: "Wrong usage or input; nothing was stored.",
    ExitCode.INCOMPLETE: "Some jobs failed, were blocked or cancelled, or wait for a person: an approval, a resume, "
    "a larger budget.",
    ExitCode.UNREACHABLE: "A service (database, broker, store) is unreachable.",
    ExitCode.INTERRUPTED: "Interrupted; stored work is kept, and the next run resumes it.",
}

_USAGE_ERRORS = (InputError, SettingsError, NotFoundError, ConflictError, NotInstalledError)
_PATH_ERRNOS = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EROFS}
    | {errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EEXIST}
)


def of_error(error: BaseException) -> ExitCode:
    """The code for an error that ended a command."""
    if isinstance(error, _USAGE_ERRORS):
        return ExitCode.USAGE
    if isinstance(error, ServiceUnavailableError | RetryableError):
        return ExitCode.UNREACHABLE
    if isinstance(error, RefusedError):
        return ExitCode.UNREACHABLE if error.code.startswith("storage_") else ExitCode.USAGE
    if isinstance(error, OSError) and error.errno in _PATH_ERRNOS and error.filename is not None:
        return ExitCode.USAGE
    return ExitCode.INTERNAL


def of_counts(counts: Mapping[JobState, int]) -> ExitCode:
    """The code of a batch with so many jobs in each state: 0 only when every job has succeeded."""
    unsuccessful = sum(count for state, count in counts.items() if state is not JobState.SUCCEEDED)
    return ExitCode.INCOMPLETE if unsuccessful else ExitCode.DONE
