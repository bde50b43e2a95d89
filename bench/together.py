"""Starts several processes and lets them begin at the same time, once each is warm."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import Any


def seconds_together(run: Callable[..., None], *arguments: Any, processes: int) -> float:
    """Wall seconds of so many processes from when all are warm to the end of the last.

    Each calls ``run(number, begin, *arguments)``, which calls ``begin`` once it is warm; it returns when all are.

    Raises:
        SystemExit: a process failed.
    """
    context = multiprocessing.get_context("spawn")
    warm = context.Barrier(processes + 1)
    running = [context.Process(target=_call, args=(run, number, warm, arguments)) for number in range(processes)]
    for process in running:
        process.start()
    warm.wait()
    start = time.perf_counter()
    for process in running:
        process.join()
    took = time.perf_counter() - start
    if any(process.exitcode for process in running):
        raise SystemExit(f"{run.__module__}: a process failed")
    return took


def _call(run: Callable[..., None], number: int, warm: Barrier, arguments: tuple[Any, ...]) -> None:
    try:
        run(number, warm.wait, *arguments)
    except BaseException:
        warm.abort()  # else the others would wait for ever
        raise
