"""The parent's handle on the child process that holds a classifier; see ``pipeline.safety.child``."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import pipeline
from pipeline.safety.result import ClassifierError

LOAD_S = 300.0
"""Longest time for loading: classifiers have a gigabyte at most, from a slow disk."""
ANSWER_S = 30.0
"""Longest time for one request; a text takes microseconds."""
_EXIT_S = 5.0

Label = tuple[str, float]
"""A label with fastText's prefix, and its score."""


class ClassifierProcess:
    """A child that has loaded the file. It is used by one thread at a time, in the process that started it.

    Raises ClassifierError: the child could not load the file; it died, or was killed because it did not answer.
    """

    def __init__(self, path: Path, *, load_s: float = LOAD_S, answer_s: float = ANSWER_S) -> None:
        self._path, self._answer_s = path, answer_s
        self._owner = os.getpid()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pipeline.safety.child", str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
            )
        except OSError as error:
            raise ClassifierError(f"the classifier's process cannot be started: {error}") from error
        # Not a method: that would keep this object, and so the child, for ever.
        self.close = weakref.finalize(self, _end, self._process, self._owner)
        try:
            self._read(load_s)
        except ClassifierError:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def usable(self) -> bool:
        """False once it has died, and in a process that was forked from the one that started it."""
        return self._owner == os.getpid() and self.close.alive and self._process.poll() is None

    def predict(self, texts: Sequence[str]) -> list[Label | None]:
        """The best label of each text, None where no word of it is known. Texts have one line each."""
        with _killed_after(self._process, self._answer_s) as overdue:
            with contextlib.suppress(BrokenPipeError, ValueError):  # gone: reading says how
                _pipe(self._process.stdin).write(json.dumps(texts).encode() + b"\n")
                _pipe(self._process.stdin).flush()
            answer = self._answer(overdue, self._answer_s)
        return [None if label is None else (str(label[0]), float(label[1])) for label in answer["labels"]]

    def _read(self, limit_s: float) -> dict[str, Any]:
        with _killed_after(self._process, limit_s) as overdue:
            return self._answer(overdue, limit_s)

    def _answer(self, overdue: threading.Event, limit_s: float) -> dict[str, Any]:
        line = _pipe(self._process.stdout).readline()
        if not line.endswith(b"\n"):
            code = self._process.wait()
            how = f"gave no answer in {limit_s:g} s" if overdue.is_set() else f"ended with {_ending(code)}"
            raise ClassifierError(f"{self._path} is damaged or too large: the process that uses it {how}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ClassifierError(answer["error"])
        return answer


class _killed_after:  # noqa: N801 - reads as the statement that it is
    """Kill the process when the block lasts longer; then the event is set."""

    def __init__(self, process: subprocess.Popen[bytes], limit_s: float) -> None:
        self._overdue = threading.Event()
        self._process = process
        self._timer = threading.Timer(limit_s, self._kill)
        self._timer.daemon = True

    def __enter__(self) -> threading.Event:
        self._timer.start()
        return self._overdue

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _kill(self) -> None:
        self._overdue.set()
        self._process.kill()


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    """End the child with its input; after a fork it is the other process's."""
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError, ValueError):
            _pipe(pipe).close()
    if owner != os.getpid():
        return
    try:
        process.wait(_EXIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _ending(code: int) -> str:
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    return f"signal {-code}"


def _environment() -> dict[str, str]:
    """Our own package's folder in front, wherever we were started."""
    # An empty entry would be the current folder, which may be somebody else's.
    inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    root = str(Path(pipeline.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, *inherited])}
