"""Injects faults into a live cluster: kills, stops and terminates processes of this host's workers.

Only processes that the workers table names with this host's name, that still run, and that are Celery workers of vgen
are touched, and what these started. Nothing is done to brokers, databases and stores: those may carry others' work.
"""

import contextlib
import os
import signal
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from sqlalchemy.orm import Session

from db import workers
from db.reading import history
from db.session import Database
from pipeline.policy.routes import gpu_type_of
from pipeline.states import AttemptOutcome, Stage

_GENERATOR = "pipeline.generators.process.child"
_FORKED = "vgen-"
"""The beginning of the process names of workers that `vgen worker` has forked."""
_STARTED = ("celery", "tasks", "worker")
"""The parts of the command line of one that was started by hand."""


@dataclass(frozen=True, slots=True)
class Target:
    """A worker of this host: a Celery worker that leads its own process group."""

    name: str
    pid: int
    gpu: bool


@dataclass
class Damage:
    """The faults, in order: (seconds since 1970, kind)."""

    happened: list[tuple[float, str]] = field(default_factory=list)
    stopped: list[tuple[float, int]] = field(default_factory=list)
    """Process groups that sleep, and since when they may go on (monotonic seconds)."""

    @property
    def kinds(self) -> Counter[str]:
        return Counter(kind for _, kind in self.happened)

    def inflict(self, targets: Sequence[Target], dice: Random, lease_s: float) -> str | None:
        """Inflict one fault on one of the targets, and return its kind."""
        if not targets:
            return None
        target = dice.choice(sorted(targets, key=lambda worker: worker.name))
        kind = dice.choice(
            ["kill worker", "kill generator", "kill pool child", "stop worker beyond its leases", "term"]
        )
        done = self._do(kind, target, lease_s)
        if done:
            self.happened.append((time.time(), kind))
        return kind if done else None

    def _do(self, kind: str, target: Target, lease_s: float) -> bool:
        if kind == "kill worker":
            return _signal_group(target.pid, signal.SIGKILL)
        if kind == "term":
            return _signal(target.pid, signal.SIGTERM)
        if kind == "stop worker beyond its leases":
            stopped = _signal_group(target.pid, signal.SIGSTOP)
            if stopped:
                self.stopped.append((time.monotonic() + 1.2 * lease_s, target.pid))
            return stopped
        wanted = kind == "kill generator"
        below = [pid for pid, command in _descendants(target.pid).items() if (_GENERATOR in command) is wanted]
        return bool(below) and _signal(sorted(below)[0], signal.SIGKILL)

    def wake(self, *, all_of_them: bool = False) -> None:
        """Continue the processes that were stopped long enough."""
        for item in list(self.stopped):
            if all_of_them or time.monotonic() >= item[0]:
                self.stopped.remove(item)
                _signal_group(item[1], signal.SIGCONT)


def targets(session: Session) -> list[Target]:
    """Return the live workers of this host whose processes match their rows."""
    host = socket.gethostname()
    victims = []
    for worker in workers.alive(session):
        if worker.host == host and _is_worker(worker.pid) and _leads(worker.pid):
            gpu = any(gpu_type_of(queue) for queue in worker.queues)
            victims.append(Target(worker.name, worker.pid, gpu))
    return victims


def inflict_faults(
    database: Database,
    damage: Damage,
    *,
    seed: int,
    between_s: tuple[float, float],
    lease_s: float,
    wait: Callable[[float], bool],
    until: Callable[[], bool],
    say: Callable[[str], None],
) -> None:
    """Inflict faults until ``until`` holds or ``wait`` (which sleeps) returns True; then continue stopped processes."""
    dice = Random(seed)
    try:
        next_at = time.monotonic()
        while not until() and not wait(0.2):
            damage.wake()
            if time.monotonic() >= next_at:
                next_at = time.monotonic() + dice.uniform(*between_s)
                with database.reading() as session:
                    alive = targets(session)
                if kind := damage.inflict(alive, dice, lease_s):
                    say(kind)
    finally:
        damage.wake(all_of_them=True)


@dataclass(frozen=True, slots=True)
class ChaosResult:
    """The result of a batch that met the faults."""

    states: Counter[str]
    unended: int
    published_twice: int
    recoveries_s: list[float]
    gpu_s: float
    wasted_gpu_s: float

    def quantiles(self) -> tuple[float, float, float] | None:
        """p50, p90 and the largest of the times to recover, in seconds."""
        times = sorted(self.recoveries_s)
        if not times:
            return None
        return statistics.median(times), times[int(0.9 * (len(times) - 1))], times[-1]


def judge(session: Session, states: Sequence[tuple[str, str]], damage: Damage) -> ChaosResult:
    """Judge the attempts of these jobs, given as (id, state)."""
    twice, recoveries, gpu_s, wasted = 0, [], 0.0, 0.0
    for job_id, _ in states:
        runs = history.attempts_of_job(session, job_id)
        twice += sum(run.stage is Stage.PUBLISH and run.outcome is AttemptOutcome.DONE for run in runs) > 1
        after = {(run.step_id, run.attempt): run for run in runs}
        for run in runs:
            if run.stage is Stage.GENERATE:
                gpu_s += (run.ended_at - run.started_at) / 1000
                wasted += 0.0 if run.outcome is AttemptOutcome.DONE else (run.ended_at - run.started_at) / 1000
            again = after.get((run.step_id, run.attempt + 1))
            if again is not None and run.outcome in (AttemptOutcome.LEASE_ENDED, AttemptOutcome.RETRIED):
                within = [at for at, _ in damage.happened if run.started_at / 1000 <= at <= run.ended_at / 1000]
                recoveries.append(max(0.0, again.started_at / 1000 - (within[0] if within else run.ended_at / 1000)))
    counted = Counter(state for _, state in states)
    unended = counted["waiting"] + counted["in_flight"]
    return ChaosResult(counted, unended, twice, recoveries, gpu_s, wasted)


def _is_worker(pid: int) -> bool:
    with contextlib.suppress(OSError):
        if Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").startswith(_FORKED):
            return True
    return all(part in _command(pid) for part in _STARTED)


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    return ""


def _descendants(pid: int) -> dict[int, str]:
    """pid to command line of everything below a process."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The second field is the name in brackets and may hold spaces; the parent follows the state.
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    descendants: dict[int, str] = {}
    todo = [pid]
    while todo:
        current = todo.pop()
        below = [child for child, parent in parents.items() if parent == current]
        descendants |= {child: _command(child) for child in below}
        todo += below
    return descendants


def _leads(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return os.getpgid(pid) == pid
    return False


def _signal(pid: int, number: signal.Signals) -> bool:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
        return True
    return False


def _signal_group(pid: int, number: signal.Signals) -> bool:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
        return True
    return False
