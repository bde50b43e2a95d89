"""Measures this process's memory and its growth since the warm-up. Loads no torch."""

import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

from pipeline.models.gpu_in_use import cuda_in_use

MEBIBYTE = 1024 * 1024
_NAMES = {"host": "resident in the host's memory", "gpu": "allocated on the GPU", "gpu_reserved": "reserved on the GPU"}


def memory_in_use() -> dict[str, int]:
    """Bytes by kind: ``host`` (resident), and once a GPU is in use ``gpu`` (tensors) and ``gpu_reserved`` (all)."""
    sizes = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        sizes["host"] = pages * os.sysconf("SC_PAGE_SIZE")
    if (cuda := cuda_in_use()) is not None:
        sizes["gpu"] = int(cuda.memory_allocated())
        sizes["gpu_reserved"] = int(cuda.memory_reserved())
    return sizes


class Growth:
    """The memory of a warm generator against that after a clip. ``limit`` (bytes) 0: it may grow for ever."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._warm = memory_in_use()

    def has_outgrown(self, free: Callable[[], None]) -> str | None:
        """Return why the process is to be replaced, if it still is too large once it gave back what nobody uses."""
        if not self._limit or self._excess() is None:
            return None
        free()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # glibc keeps freed memory for later
        return self._excess()

    def _excess(self) -> str | None:
        for kind, now in memory_in_use().items():
            grown = now - self._warm.get(kind, 0)
            if kind in self._warm and grown > self._limit:
                return (
                    f"{now // MEBIBYTE} MiB are {_NAMES[kind]}, {grown // MEBIBYTE} MiB more than after its warm-up; "
                    f"{self._limit // MEBIBYTE} MiB are allowed (VGEN_WORKER_GROWTH_BYTES)"
                )
        return None
