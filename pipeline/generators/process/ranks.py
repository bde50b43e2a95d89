"""The other processes that share a clip with the generator's child, as the child sees them. Imports no torch.

They run ``pipeline.generators.process.child`` too and get the same commands. The death of one is the death of all:
the child ends itself, its supervisor counts a crash and starts another, and the kernel ends the ranks with their
parent.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from pipeline.errors import StoppedError
from pipeline.generators.process.running_child import EXIT_S, RunningChild

PATIENCE_S = 60.0
"""The time between the first and last rank's end of a command; after it one waits for another for ever."""
_POLL_S = 0.5
_MOMENT_S = 1.0
_FOLDER = "vgen-ranks-"
_FINAL = frozenset({"ready", "result", "error"})


class Ranks:
    """The ranks from 1 on, started and followed. The caller is rank 0."""

    def __init__(self, ways: int, cache_dir: Path) -> None:
        _remove_left_over()
        self._folder, self._lock = _new_folder()
        self.store = self._folder / "store"
        self._answered = threading.Condition()
        self._done: dict[int, set[int]] = {}
        """By command: the ranks that have ended it."""
        self._last_sent = 0
        self._last_ended = 0
        """The last command that this rank has ended."""
        self._closing = False
        self._others = {
            rank: RunningChild(cache_dir, {}, (str(rank), str(ways), str(self.store))) for rank in range(1, ways)
        }
        self._threads = [
            threading.Thread(target=self._watch, args=(rank, child), daemon=True)
            for rank, child in self._others.items()
        ]
        for thread in self._threads:
            thread.start()

    def send(self, command: dict[str, Any]) -> None:
        """Have the others carry out what this rank is about to."""
        self._last_sent = int(command["id"])
        for child in self._others.values():
            child.send(command)

    def wait_for_all(self, number: int) -> None:
        """This rank has ended the command; wait for the others, or end the process: they are out of step."""
        if number != self._last_sent:
            return  # this rank's alone
        with self._answered:
            self._last_ended = number
            if not self._answered.wait_for(lambda: len(self._done.get(number, ())) == len(self._others), PATIENCE_S):
                self._exit(f"command {number} did not end on every rank within {PATIENCE_S:g} s")
            self._done.pop(number, None)

    def exit_if_one_died(self) -> None:
        """Something failed here: end the process if another rank died, which may be seen in a moment."""
        end = time.monotonic() + _MOMENT_S
        while time.monotonic() < end:
            for rank, child in self._others.items():
                if not child.alive:
                    self._exit(f"rank {rank} died: {child.describe_end()}")
            time.sleep(_MOMENT_S / 10)

    def end(self) -> None:
        """End the other ranks."""
        self._closing = True
        for child in self._others.values():
            child.end(EXIT_S)
        for thread in self._threads:
            thread.join(EXIT_S)
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)

    def _watch(self, rank: int, child: RunningChild) -> None:
        failed: tuple[int, float, str] | None = None
        while not self._closing:
            event = child.next_event(_POLL_S)
            if event is not None and event["event"] == "died":
                if not self._closing:
                    self._exit(f"rank {rank} died: {child.describe_end()}")
                return
            if event is not None and event["event"] in _FINAL:
                with self._answered:
                    self._done.setdefault(event["id"], set()).add(rank)
                    self._answered.notify_all()
                if event["event"] == "error" and event["data"]["code"] != StoppedError.code:
                    failed = event["id"], time.monotonic(), str(event["data"]["message"])
            # A rank that failed alone leaves this one waiting for it within a step.
            if failed is not None and self._last_ended < failed[0] and time.monotonic() - failed[1] > PATIENCE_S:
                self._exit(f"rank {rank} failed: {failed[2]}")

    def _exit(self, why: str) -> None:
        sys.stderr.write(f"{why}\n")
        sys.stderr.flush()
        shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(1)


def _new_folder() -> tuple[Path, int]:
    """A folder whose lock (a file descriptor) is ours before it has the name that others look for."""
    draft = Path(tempfile.mkdtemp(prefix=f"new-{_FOLDER}"))
    lock = os.open(draft, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return draft.rename(draft.with_name(f"{_FOLDER}{os.getpid()}-{secrets.token_hex(4)}")), lock


def _remove_left_over() -> None:
    """Folders of processes that were killed: the kernel has freed their locks.

    Their process ids would not tell: a container that shares the folder counts its own.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*-*"):
        with contextlib.suppress(OSError):  # in use, of another user, or removed just now
            if folder.lstat().st_uid != os.geteuid():
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
