"""Keeps models that left the GPU in host memory, so that loading one again is a copy.

Loads no torch: what is kept moves itself.
"""

import contextlib
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

_SHARE_OF_FREE = 0.5
"""The share of free memory, where no limit is set: the rest is for models to be read, frames and encoders."""


class HostCacheable(Protocol):
    """A generator that can leave its device."""

    def host_bytes(self) -> int | None:
        """Bytes that it holds; None: it cannot wait in the host's memory."""

    def move_to_host(self) -> None:
        """Give the device's memory back and keep all else."""

    def unload(self) -> None:
        """Free the memory."""


class HostCache:
    """Generators by key, within ``limit`` bytes (None: half of what is free); the least recently used go first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[HostCacheable, int]] = OrderedDict()

    @property
    def keys(self) -> tuple[str, ...]:
        """Return what is kept, the last used last."""
        return tuple(self._kept)

    def take(self, key: str) -> HostCacheable | None:
        """Hand out, and keep no longer."""
        entry = self._kept.pop(key, None)
        return None if entry is None else entry[0]

    def keep(self, key: str, generator: HostCacheable, limit: int | None) -> None:
        """Move a generator to the host's memory, or unload it where it cannot wait or does not fit."""
        size = generator.host_bytes()
        total = sum(entry_size for _, entry_size in self._kept.values())
        allowed = total + int(free_host_bytes() * _SHARE_OF_FREE) if limit is None else limit
        if size is None or size > allowed or not allowed:
            generator.unload()
            return
        while total + size > allowed:
            _, (oldest, freed) = self._kept.popitem(last=False)
            oldest.unload()
            total -= freed
        generator.move_to_host()
        self._kept[key] = (generator, size)

    def clear(self) -> None:
        """Unload everything."""
        while self._kept:
            self._kept.popitem()[1][0].unload()


def free_host_bytes() -> int:
    """Return what this process may still take of the host's memory, and of its container's where that has a limit."""
    limits = []
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):  # cgroup v2; "max" is not a number
        group = Path("/sys/fs/cgroup")
        limits.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, min(limits, default=0))
