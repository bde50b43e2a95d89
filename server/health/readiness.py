"""What the server needs to do its work, asked within a few seconds: its database with this release's tables, its store,
room on its disks, and in a cluster the broker.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import anyio
from anyio import CapacityLimiter, to_thread

from db import schema
from pipeline.errors import VgenError
from pipeline.redaction import redact
from server.database import Line
from tasks.broker import reach_broker

PATIENCE_S = 5.0
"""A service that has not answered by then is away: probes ask again, and soon."""
MEBIBYTE = 1024 * 1024
MIN_FREE_BYTES = 64 * MEBIBYTE
"""Less room than this has no upload and no clip of some length."""
_PROBE_KEY = "vgen-check/probe"
"""A key under which nothing is: asking for it tells whether the store answers."""
_THREADS = 8
"""Checks that hang keep no more threads than this from the others."""


async def problems(line: Line) -> list[str]:
    """Return a sentence on each service that cannot be used; empty when all can."""
    if line.stopping.is_set():
        return ["server: it is about to end"]
    checks: dict[str, Callable[[], str | None]] = {
        "database": lambda: schema.behind(line.database),
        "store": lambda: _ask_store(line),
    }
    checks["disk"] = lambda: _full(line)
    if line.settings.broker_url is not None:
        checks["broker"] = lambda: reach_broker(line.settings)
    results = dict.fromkeys(checks, f"it did not answer within {PATIENCE_S:g} s")
    limiter = CapacityLimiter(_THREADS)

    async def check(name: str, ask: Callable[[], str | None]) -> None:
        results[name] = await to_thread.run_sync(_said, ask, abandon_on_cancel=True, limiter=limiter)

    with anyio.move_on_after(PATIENCE_S):
        async with anyio.create_task_group() as group:
            for name, ask in checks.items():
                group.start_soon(check, name, ask)
    return [redact(f"{name}: {problem}") for name, problem in results.items() if problem]


def _said(ask: Callable[[], str | None]) -> str:
    try:
        return ask() or ""
    except VgenError as error:
        return str(error) or error.code


def _full(line: Line) -> str | None:
    """Which of the folders that the server writes to has no room: uploads, and in solo mode clips and the database."""
    folders = {"VGEN_STORAGE": line.settings.folders.get("VGEN_STORAGE"), "TMPDIR": Path(tempfile.gettempdir())}
    if line.database.is_sqlite:
        folders["VGEN_HOME"] = line.settings.home
    for name, folder in folders.items():
        existing = folder and next((path for path in (folder, *folder.parents) if path.is_dir()), None)
        if existing is not None and (free := shutil.disk_usage(existing).free) < MIN_FREE_BYTES:
            return f"{name} has no room: {free // MEBIBYTE} MiB are free, and {MIN_FREE_BYTES // MEBIBYTE} are needed"
    return None


def _ask_store(line: Line) -> None:
    line.storage.stat(_PROBE_KEY)
