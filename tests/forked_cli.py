"""`vgen` in a process of its own, forked from one that has imported its modules already.

The imports are most of what a short command costs, and the tests run hundreds of commands. Signals, exit codes, output,
environment and death are those of any process; only /proc shows the server that it was forked from. A test of what a
new program loads, or shows in /proc, or of a patched interpreter starts ``tests.cluster.VGEN``.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

# Nothing of tasks: its modules read the settings when they are imported.
_LOADED = (
    *(
        "cli.main",
        *("cli.batches.submit", "cli.batches.status", "cli.batches.watch", "cli.results.clips", "cli.batches.work"),
        *("cli.batches.events", "cli.results.report", "cli.batches.limits", "cli.operate.workers", "cli.operate.pause"),
        *("cli.jobs.cancel_retry_approve", "cli.jobs.extend", "cli.eval.commands", "cli.eval.suite"),
        "cli.batches.prompt_file",
        "cli.batches.follow",
        "cli.batches.forecast",
        "service.views.batches",
        "service.views.evals",
    ),
    *(
        "db.scheduling.dispatch",
        "db.evals.runs",
        "db.queue.recovery",
        "db.schema",
        "pipeline.wiring",
        "pipeline.prompts",
    ),
    *("pipeline.stages.encode", "pipeline.stages.generate", "pipeline.stages.publish", "pipeline.stages.screen"),
    *("pipeline.generators.process.running_child", "pipeline.storage.s3", "sqlalchemy.dialects.sqlite.pysqlite"),
    *("sqlalchemy.dialects.postgresql.psycopg", "alembic.command", "boto3.session", "botocore.client"),
    *("celery.app.amqp", "celery.worker", "celery.apps.worker", "celery.concurrency.solo", "kombu.transport.memory"),
)
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(list(_LOADED))
"""Starts any test's process as a fork of the one that has imported; there is one list of modules for a test run."""


class ForkedVgen:
    """One command at work, as ``subprocess.Popen`` would show it.

    It ends with this process, however that does.

    Args:
        stdout, stderr: files to which its streams are appended; they may be the same.
        session: whether it leads a session and process group of its own.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        *,
        env: Mapping[str, str],
        cwd: Path,
        stdout: Path,
        stderr: Path,
        session: bool = False,
    ) -> None:
        self.arguments = [str(argument) for argument in arguments]
        streams = (str(stdout), str(stderr))
        self._process = CONTEXT.Process(target=_run, args=(self.arguments, dict(env), str(cwd), streams, session))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self.arguments, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    arguments: Sequence[object], *, env: Mapping[str, str], cwd: Path, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; killed, with subprocess.TimeoutExpired, when it takes longer than ``timeout`` s."""
    with tempfile.TemporaryDirectory(prefix="vgen-test-") as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch()
        err.touch()
        process = ForkedVgen(arguments, env=env, cwd=cwd, stdout=out, stderr=err)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
            process.wait()
        return subprocess.CompletedProcess(process.arguments, code, out.read_text("utf-8"), err.read_text("utf-8"))


def _run(arguments: list[str], env: Mapping[str, str], cwd: str, streams: tuple[str, str], session: bool) -> None:
    """The child's part."""
    threading.Thread(target=_die_with_tests, daemon=True).start()
    if session:
        os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, path in enumerate(streams, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, number)
        os.close(file)
    sys.argv = ["vgen", *arguments]

    from cli.main import main  # noqa: PLC0415

    main()


def _die_with_tests() -> None:
    tests = multiprocessing.parent_process()
    assert tests is not None
    tests.join()
    os.kill(os.getpid(), signal.SIGKILL)
