"""One child process of a generator, and the threads that read its two outputs. Imports no torch."""

import collections
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pipeline
from pipeline.errors import CrashError

EXIT_S = 5.0
"""The time a child may take to exit when asked, before it is killed."""
_STDERR_LINES = 30
_DIED: dict[str, Any] = {"event": "died"}
_Events = queue.SimpleQueue[dict[str, Any]]


class RunningChild:
    """One child process with the threads that read its two outputs.

    It is started by the thread that reads its standard error, since the kernel's parent-death signal follows the
    starting thread: that one lives exactly as long as the child.
    """

    def __init__(self, cache_dir: Path, device_env: Mapping[str, str], rank: Sequence[str] = ()) -> None:
        """``rank``: number, count and meeting file of one that shares clips with others (``generators.ranks``)."""
        self._events: _Events = queue.SimpleQueue()
        self._awaited: dict[int, _Events] = {}
        """Events of the commands that somebody listens to; all others go to ``_events``."""
        self._sorting = threading.Lock()
        self._stderr: collections.deque[str] = collections.deque(maxlen=_STDERR_LINES)
        self._over = False
        self._sending = threading.Lock()
        started: queue.SimpleQueue[subprocess.Popen[str] | BaseException] = queue.SimpleQueue()
        command = [
            sys.executable,
            "-P",
            "-m",
            "pipeline.generators.process.child",
            str(os.getpid()),
            str(cache_dir),
            *rank,
        ]
        self._stderr_thread = threading.Thread(
            target=self._start_and_read_stderr,
            args=(command, _environment(device_env, cache_dir), started),
            daemon=True,
        )
        self._stderr_thread.start()
        outcome = started.get()
        if isinstance(outcome, BaseException):
            raise CrashError(f"the generator's process could not be started: {outcome}") from outcome
        self._process = outcome
        self._reader = threading.Thread(target=self._read_events, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, command: dict[str, Any]) -> None:
        """A child that is gone is noticed by the reader, so a broken pipe is no error here."""
        with self._sending, contextlib.suppress(BrokenPipeError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()

    @contextlib.contextmanager
    def answers(self, number: int) -> Iterator[Callable[[float], dict[str, Any] | None]]:
        """``next_event`` for the events of one command alone, which is to be sent within the block."""
        with self._sorting:
            answers_queue = self._awaited[number] = queue.SimpleQueue()
            if self._over:
                answers_queue.put(_DIED)
        try:
            yield partial(_next, answers_queue)
        finally:
            with self._sorting:
                del self._awaited[number]

    def next_event(self, timeout_s: float) -> dict[str, Any] | None:
        """The next event; ``{"event": "died"}`` is the last; None when nothing came in time."""
        return _next(self._events, timeout_s)

    def describe_end(self) -> str:
        """Return how it ended and what it last wrote to its standard error."""
        code = self._process.poll()
        if code is None:
            how = "it still runs"
        elif code < 0:
            how = f"signal {signal.Signals(-code).name}"
        else:
            how = f"exit status {code}"
        self._stderr_thread.join(1.0)
        lines = "\n".join(self._stderr)
        return f"{how}\n{lines}" if lines else how

    def end(self, patience_s: float) -> None:
        """Close its input, wait, then kill."""
        with self._sending, contextlib.suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(EXIT_S)
        self._stderr_thread.join(EXIT_S)

    def _start_and_read_stderr(
        self,
        command: list[str],
        environment: dict[str, str],
        started: queue.SimpleQueue[subprocess.Popen[str] | BaseException],
    ) -> None:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=environment,
            )
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for it
            started.put(error)
            return
        started.put(process)
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                self._stderr.append(line.rstrip())
        process.wait()

    def _read_events(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout:
            for line in self._process.stdout:
                with contextlib.suppress(json.JSONDecodeError):  # a line cut short by a kill
                    event = json.loads(line)
                    with self._sorting:
                        self._awaited.get(event["id"], self._events).put(event)
        self._process.wait()
        with self._sorting:
            self._over = True
            for events in (self._events, *self._awaited.values()):
                events.put(_DIED)


def _next(events: _Events, timeout_s: float) -> dict[str, Any] | None:
    try:
        return events.get(timeout=timeout_s)
    except queue.Empty:
        return None


def _environment(device_env: Mapping[str, str], cache_dir: Path) -> dict[str, str]:
    """The parent's environment, the device's, and our own package's folder in front, wherever we were started."""
    root = str(Path(pipeline.__file__).parents[1])
    # An empty entry would be the current folder, which may be somebody else's.
    inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return {
        # What torch.compile makes outlives the child, so that the next one need not make it again.
        "TORCHINDUCTOR_CACHE_DIR": str(cache_dir / "inductor"),
        **os.environ,
        # cuBLAS is reproducible only with a fixed workspace (its documentation, "Results reproducibility").
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **device_env,
        "PYTHONPATH": os.pathsep.join([root, *inherited]),
        "PYTHONSAFEPATH": "1",  # for what torch starts
    }
