"""Compares the command line's start-up time with an empty Python: ``python bench/startup.py``."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time

RUNS = 15
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "vgen --help": [sys.executable, "-P", "-m", "cli.main", "--help"],
    "vgen config --json": [sys.executable, "-P", "-m", "cli.main", "config", "--json"],
}


def median_s(command: list[str]) -> float:
    """Median wall time of a command over ``RUNS`` runs, in seconds; the first, cold run is left out."""
    times = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    print(f"machine: {os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}")
    base = 0.0
    for name, command in COMMANDS.items():
        seconds = median_s(command)
        base = base or seconds
        print(f"{name:<22} {seconds * 1000:7.0f} ms   {seconds / base:5.1f} ×")


if __name__ == "__main__":
    main()
