"""Signals that ask a command to end: which are heard, and what a second one does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.interrupt import Interrupt
from pipeline.processes import hang_up_like_sigterm, stop_signals


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_asks_for_an_orderly_stop_and_is_as_before_afterwards(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupt("stopping") as interrupt:
        os.kill(os.getpid(), number)
        assert interrupt.wait(5)
    assert signal.getsignal(number) is before


def test_a_terminal_that_closes_says_so_twice_and_nobody_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(descriptor: int, data: bytes) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("cli.interrupt.os.write", gone)
    with Interrupt("stopping") as interrupt:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        assert interrupt.stopped


def test_nohup_is_respected() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    assert signal.SIGHUP not in stop_signals()
    hang_up_like_sigterm()
    with Interrupt("stopping") as interrupt:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not interrupt.wait(0.1)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_the_generator_leaves_every_such_signal_to_its_parent() -> None:
    command = [sys.executable, "-P", "-m", "pipeline.generators.process.child", str(os.getpid()), "/nonexistent"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b'{"command": "no such", "id": 1}\n')
        process.stdin.flush()
        process.stdout.readline()  # its handlers are in place
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.stdin.close()

        assert process.wait(30) == 0


def test_beat_writes_its_schedule_when_the_terminal_closes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "celery", "-A", "tasks.app", "beat", "--pidfile=", "--loglevel=DEBUG"]
    environment = {**os.environ, "VGEN_BROKER_URL": "redis://127.0.0.1:1/0", "VGEN_HOME": str(tmp_path / "home")}
    with subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as beat:
        assert beat.stderr is not None
        try:
            for line in beat.stderr:  # until its handlers are in place
                if "Waking up" in line:
                    break
            beat.send_signal(signal.SIGHUP)
            beat.stderr.read()

            assert beat.wait(30) == 0
        finally:
            beat.kill()
    assert list(tmp_path.glob("celerybeat-schedule*"))
