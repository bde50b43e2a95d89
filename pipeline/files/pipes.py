"""Opens files that a person hands to a command: regular files, and pipes that the shell has opened.

``vgen eval compare <(jq … a.json) <(jq … b.json)`` gives paths such as ``/dev/fd/63``: their other end is open, so
reading them waits for nobody but the program that the person started. A named pipe in a folder is refused.
"""

import os
import re
import stat

from pipeline.errors import InputError, Problem
from pipeline.files.regular import read_regular_file, reason

_OPENED_BY_THE_SHELL = re.compile(r"/dev/stdin|/(?:dev|proc/self)/fd/[0-9]{1,9}")


def read_file_or_pipe(path: str | os.PathLike[str], *, what: str, limit_bytes: int) -> bytes:
    """All bytes of a regular file, or of a pipe that was open before this process began.

    ``what`` names the file in messages. Raises InputError as ``read_regular_file`` does.
    """
    name = os.fspath(path)
    if not _OPENED_BY_THE_SHELL.fullmatch(name) or not _is_pipe(name):
        return read_regular_file(path, what=what, limit_bytes=limit_bytes)
    try:
        with open(name, "rb") as file:  # noqa: PTH123 - the path as it was given
            content = file.read(limit_bytes + 1)
    except OSError as error:
        raise InputError([Problem(f"{what} cannot be read: {reason(error)}", name)]) from error
    if len(content) > limit_bytes:
        raise InputError([Problem(f"{what} has more than {limit_bytes} bytes, the most that is read", name)])
    return content


def _is_pipe(name: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(name).st_mode)  # noqa: PTH116 - the path as it was given
    except OSError:
        return False
