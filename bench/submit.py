"""Measures parsing and storing prompts: ``python -m bench.submit [--counts 10000 100000] [--json FILE]``.

Each measurement runs in a process of its own, so that its peak memory is its own. The second submit of the same
file finds the batch that is there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from db import schema
from db.clips import batches
from db.session import Database
from pipeline.prompts import parse
from pipeline.settings import load_settings
from pipeline.spec import BatchOptions
from tests import servers


def _machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "unknown")
    return {"cpus": os.cpu_count(), "model": model}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _measure(url: str, path: str, results: Any) -> None:
    database = Database(url)
    settings = load_settings()
    schema.upgrade(database)
    figures: dict[str, Any] = {"start_mib": _peak_mib()}
    for turn in ("first", "second"):
        began = time.perf_counter()
        submission = parse(Path(path), overrides={}, settings=settings)
        parsed = time.perf_counter()
        with database.transaction() as session:
            stored = batches.submit(session, submission, name="bench", owner="bench", options=BatchOptions())
        ended = time.perf_counter()
        assert stored.created == (turn == "first")
        assert stored.total == len(submission.jobs)
        figures |= {f"{turn}_parse_s": parsed - began, f"{turn}_store_s": ended - parsed, f"{turn}_s": ended - began}
        figures[f"{turn}_peak_mib"] = _peak_mib()
    database.close()
    results.put(figures)


def _in_child(url: str, path: Path) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    child = context.Process(target=_measure, args=(url, str(path), results))
    child.start()
    child.join()
    if child.exitcode:
        raise SystemExit(f"the measuring process ended with {child.exitcode}")
    figures: dict[str, Any] = results.get()
    return figures


@contextmanager
def _databases(folder: Path, count: int) -> Iterator[dict[str, str]]:
    with servers.postgres_server() as server:
        yield {"sqlite": f"sqlite:///{folder / f'{count}.sqlite3'}", "postgres": server.url}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    machine = _machine()
    print(f"{machine['cpus']} × {machine['model']}")
    print(f"{'database':9} {'prompts':>8} {'parse s':>8} {'store s':>8} {'jobs/s':>8} {'peak MiB':>9} {'again s':>8}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="vgen-bench-") as name:
        for count in arguments.counts:
            path = Path(name) / f"{count}.txt"
            path.write_text("".join(f"a cat number {n} walks over a wet roof at dusk\n" for n in range(count)), "utf-8")
            with _databases(Path(name), count) as urls:
                for kind, url in urls.items():
                    row = {"database": kind, "prompts": count, **_in_child(url, path)}
                    rows.append(row)
                    print(
                        f"{kind:9} {count:8} {row['first_parse_s']:8.2f} {row['first_store_s']:8.2f} "
                        f"{count / row['first_s']:8.0f} {row['first_peak_mib']:9.0f} {row['second_s']:8.2f}",
                        flush=True,
                    )
    text = json.dumps({"machine": machine, "results": rows}, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
