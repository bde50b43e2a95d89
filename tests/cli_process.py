"""`vgen` as a process of its own, for tests of what only a process shows."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import forked_cli
from tests.cluster import VGEN

LIMIT_S = 120
"""No command of a test may take longer."""


def vgen(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return forked_cli.run(arguments, env=os.environ, cwd=Path.cwd(), timeout=LIMIT_S)


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The command at work; killed at the end if it still is."""
    process = subprocess.Popen([*VGEN, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=LIMIT_S)


def until(condition: Callable[[], object]) -> None:
    """Return when the condition holds; fails the test when it does not in time."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
