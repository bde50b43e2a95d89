"""One ``vgen worker`` with a home, a hand-off directory, a clock and a file of failpoints of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import VGEN, processes
from tests.die_with_parent import dying_with_us

WORKERS_A_HOST = 3


@dataclass
class Host:
    """One ``vgen worker`` and what belongs to it."""

    name: str
    folder: Path
    env: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def marker(self) -> str:
        return f"VGEN_HOME={self.home}"

    def start(self, *arguments: str, **env: str) -> None:
        self.starts += 1
        with (self.folder / "worker.log").open("ab") as log:
            self.process = subprocess.Popen(
                dying_with_us([*VGEN, "worker", *arguments], signal.SIGTERM),
                env={**self.env, **env},
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self.process is not None, f"host {self.name} does not run"
        return self.process.pid

    @property
    def log(self) -> str:
        path = self.folder / "worker.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def processes(self) -> dict[int, str]:
        """pid to command line: the parent, the Celery workers with their pools, the generator's child."""
        return processes(self.marker)

    def generators(self) -> list[int]:
        return [pid for pid, command in self.processes().items() if "pipeline.generators.process.child" in command]

    def members(self, role: str = "") -> list[int]:
        """Processes of the Celery worker with this role (``gpu0``, ``cpu``, ``io``), or of all of them."""
        return [pid for pid, command in self.processes().items() if command.startswith(f"[vgen-{role}")]

    def parents(self, role: str = "") -> list[int]:
        """The Celery workers themselves: leaders of their process groups."""
        return [pid for pid in self.members(role) if _leads(pid)]

    def fail(self, plan: str) -> None:
        """Set the host's failpoints; empty for none. Every process of it reads them at its next point."""
        path = self.folder / "failpoints"
        draft = path.with_suffix(".new")
        draft.write_text(plan)
        draft.replace(path)

    def clock(self, offset_s: float) -> None:
        """Let the wall clock of the host's Python processes be off by so much."""
        (self.folder / "clock").write_text(str(offset_s))

    def signal(self, number: int) -> None:
        """To every process of the host."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """Everything at once, as when the machine loses power; its disk stays."""
        for _ in range(20):
            if not self.processes():
                break
            self.signal(signal.SIGKILL)
            time.sleep(0.05)
        if self.process is not None:
            self.process.wait(10)
            self.process = None

    def stop(self) -> int:
        """SIGTERM to ``vgen worker``; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(90)
        self.process = None
        return code


def _leads(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        return os.getpgid(pid) == pid
    return False
