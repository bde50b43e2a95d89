"""Start a program that the kernel ends when its parent dies.

``python die_with_parent.py PARENT SIGNAL UID GID PROGRAM [ARGUMENT…]``: a test run that is killed runs no clean-up
code, so the servers it started must not depend on any. ``UID`` and ``GID`` may be ``-`` to stay the same user.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


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
