"""Digests of files."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

_CHUNK = 4 * 1024 * 1024


def facts_of(path: Path) -> dict[str, Any]:
    """``sha256`` and ``size`` in bytes."""
    return {"sha256": file_sha256(path), "size": path.stat().st_size}


def file_sha256(path: Path, check: Callable[[], None] = lambda: None) -> str:
    """sha256 of a file; ``check`` is called every few megabytes."""
    with path.open("rb") as file:
        return stream_sha256(file, check)[0]


def stream_sha256(file: IO[bytes], check: Callable[[], None] = lambda: None) -> tuple[str, int]:
    """The sha256 and the number of the bytes that are left of ``file``; ``check`` is called every few megabytes."""
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
        check()
    return digest.hexdigest(), size
