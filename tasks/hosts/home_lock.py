"""The lock of a home folder: only one process at a time works in it."""

import errno
import fcntl
import os
from pathlib import Path
from typing import IO

from pipeline.errors import SettingsError
from pipeline.files.private import private_folder


class HomeLock:
    """A lock on a solo run's home folder; the kernel frees it when its holder dies, however it dies."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Try to lock the home; True when the lock is ours now.

        Raises:
            SettingsError: the home cannot be made or written.
        """
        try:
            private_folder(self._home)
            # Not through a link: the file is emptied, and the home may have come along with a cloned folder.
            descriptor = os.open(self._home / "vgen.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            file = os.fdopen(descriptor, "r+", encoding="utf-8")
        except OSError as error:
            reason = "vgen.lock is a link" if error.errno == errno.ELOOP else error.strerror
            raise SettingsError(f"VGEN_HOME {str(self._home)!r} cannot be used: {reason}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._file = file
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
