"""Measures a job's cost by process (CPU time of process trees) and by statement (PostgreSQL's log).

Linux only: times are read in ``/proc``.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import psycopg

_TICKS_PER_MS = os.sysconf("SC_CLK_TCK") / 1000
_LOGGED = re.compile(r"duration: ([\d.]+) ms(?:  (?:statement|execute [^:]*): (.*))?")
_SHOWN = 12
_SHORT = 110


def core_ms(pids: Mapping[str, int]) -> Counter[str]:
    """Milliseconds of a core that each process and all below it have used until now, by name.

    A name with a number loses it, so that workers of one role are summed. What a process and its children (which run
    tasks) use is told apart: ``gpu`` and ``gpu children``.
    """
    children = defaultdict(list)
    used = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            children[int(fields[1])].append(int(folder.name))
            used[int(folder.name)] = sum(map(int, fields[11:15])) / _TICKS_PER_MS
    total: Counter[str] = Counter()
    for name, pid in pids.items():
        role = name.rstrip("0123456789")
        total[role] += used.get(pid, 0.0)
        below = list(children[pid])
        while below:
            child = below.pop()
            below += children[child]
            total[f"{role} children"] += used[child]
    return total


def log_statements(database_url: str, *, on: bool) -> None:
    """Have PostgreSQL log each statement with its time, or stop it. It must be the superuser's URL."""
    setting = "SET log_min_duration_statement = 0" if on else "RESET log_min_duration_statement"
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM {setting}")
        connection.execute("SELECT pg_reload_conf()")


def statement_table(log: str, jobs: int) -> str:
    """The dearest statements of a log: milliseconds and times a job, and how the statement begins."""
    times: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for milliseconds, statement in _LOGGED.findall(log):
        name = re.sub(r"\s+", " ", re.sub(r"\$\d+|'[^']*'|\b\d+\b", "?", statement)).strip()[:_SHORT]
        if name:
            times[name] += float(milliseconds)
            counts[name] += 1
    lines = [f"{times.total() / jobs:8.2f} ms {counts.total() / jobs:7.1f} times a job: all statements"]
    lines += [f"{spent / jobs:8.2f} ms {counts[name] / jobs:7.1f}  {name}" for name, spent in times.most_common(_SHOWN)]
    return "\n".join(lines)
