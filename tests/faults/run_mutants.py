"""`make mutants`: does some test fail when a safeguard is taken away?

Each mutant of ``tests/faults/mutants.py`` is applied to a temporary copy of the code, and its tests run there. The exit
code is 1 if one survives, or if its place in the code no longer exists.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.mutants import MUTANTS, Mutant

REPOSITORY = Path(__file__).resolve().parents[2]
COPIED = (
    "pipeline",
    "tasks",
    "db",
    "service",
    "server",
    "cli",
    "vgen",
    "migrations",
    "tests",
    "docs",
    "pyproject.toml",
)


def survives(mutant: Mutant, folder: Path) -> tuple[bool, str]:
    """Whether no test noticed, and the first that did (or why the mutant could not be made)."""
    tree = _copy(folder / mutant.name.replace(" ", "-"))
    path = tree / mutant.path
    text = path.read_text("utf-8")
    if text.count(mutant.old) != 1:
        return True, f"its text is {text.count(mutant.old)} times in {mutant.path}, not once: correct the mutant"
    path.write_text(text.replace(mutant.old, mutant.new), "utf-8")
    code, red = _run(tree, mutant.tests)
    shutil.rmtree(tree, ignore_errors=True)
    return (True, "every test passed") if code == 0 else (not red.startswith(("FAILED", "ERROR")), red)


def _copy(tree: Path) -> Path:
    tree.mkdir()
    for name in COPIED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / name)
    return tree


def _run(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """pytest's exit code, and the first red test; where it could not run at all, what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--timeout", "90", *tests],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    red = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    red.sort(key=lambda line: line.startswith("ERROR"))  # a test that failed says more than its fixture's end
    return done.returncode, red[0] if red else (done.stdout + done.stderr)[-500:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of a mutant's name")
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if chosen.only in mutant.name]
    alive = 0
    with tempfile.TemporaryDirectory(prefix="vgen-mutants-") as folder:
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        code, red = _run(_copy(Path(folder) / "unchanged"), tests)
        if code != 0:  # a test that is red anyway notices nothing
            sys.stdout.write(f"red without any mutant: {red}\n")
            return 1
    with tempfile.TemporaryDirectory(prefix="vgen-mutants-") as folder, ThreadPoolExecutor(chosen.jobs) as pool:
        for mutant, (survived, why) in zip(
            mutants, pool.map(lambda one: survives(one, Path(folder)), mutants), strict=True
        ):
            alive += survived
            sys.stdout.write(f"{'SURVIVES' if survived else 'caught  '}  {mutant.name}: {why}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(mutants) - alive} of {len(mutants)} mutants are caught\n")
    return 1 if alive or not mutants else 0


if __name__ == "__main__":
    sys.exit(main())
