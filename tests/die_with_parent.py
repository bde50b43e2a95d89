"""Start a program that the kernel ends when its parent dies.

``python die_with_parent.py PARENT SIGNAL UID GID PROGRAM [ARGUMENT…]``: a test run that is killed runs no clean-up
code, so the servers it started must not depend on any. ``UID`` and ``GID`` may be ``-`` to stay the same user.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def dying_with_us(command: Sequence[str], death: signal.Signals, user: pwd.struct_passwd | None = None) -> list[str]:
    """The command line of a program that gets the signal when this process dies, however it does."""
    ids = ["-", "-"] if user is None else [str(user.pw_uid), str(user.pw_gid)]
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(death)), *ids, *command]


def main(arguments: list[str]) -> None:
    parent, signal_number, uid, gid, *program = arguments
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    # After setuid: the kernel forgets the signal when the user changes.
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0) != 0:
        sys.exit("prctl failed")
    if os.getppid() != int(parent):  # it died before the request
        sys.exit("the parent is gone")
    os.execv(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
