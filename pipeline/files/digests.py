"""Digests of files that are uploaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHUNK = 4 * 1024 * 1024


def facts_of(path: Path) -> dict[str, Any]:
    """``sha256`` and ``size`` in bytes."""
    return {"sha256": file_sha256(path), "size": path.stat().st_size}


def file_sha256(path: Path, check: Callable[[], None] = lambda: None) -> str:
    """sha256 of a file; ``check`` is called every few megabytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            check()
    return digest.hexdigest()
