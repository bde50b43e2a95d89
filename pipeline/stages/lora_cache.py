"""The host's cache of LoRA files: downloaded from the store once, evicted by last use."""

import contextlib
import os
import time
from pathlib import Path

from pipeline.errors import NotFoundError, RefusedError, RetryableError
from pipeline.files.digests import file_sha256
from pipeline.files.drafts import draft_of
from pipeline.models.lora_files import SUFFIX
from pipeline.settings import Settings
from pipeline.spec import LoraRef
from pipeline.storage.base import Storage

IN_USE_S = 3600.0
"""A file that was used so lately is not removed: a worker of this host may be about to read it."""


def fetch_lora(ref: LoraRef, storage: Storage, settings: Settings) -> Path:
    """The file on this host. What was not used for long goes when the files are too large together.

    Raises:
        RefusedError: code ``input_missing``; it is not in the store.
        RetryableError: the store cannot be reached, or what came is not what was stored (code ``storage_corrupt``).
    """
    folder = settings.effective_cache_dir / "loras"
    path = folder / f"{ref.file.sha256}{SUFFIX}"
    try:
        os.utime(path)
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
        _download(ref, path, storage)
        _evict(folder, settings.worker.lora_cache_bytes)
    return path


def _download(ref: LoraRef, path: Path, storage: Storage) -> None:
    try:
        with draft_of(path) as draft:
            storage.download(ref.file.key, draft)
            if (digest := file_sha256(draft)) != ref.file.sha256:
                raise RetryableError(f"{ref.file.key} came with the sha256 {digest}", code="storage_corrupt")
    except NotFoundError as error:
        raise RefusedError(
            f"loras: {ref.file.name!r} ({ref.file.key}) is not in the store", code="input_missing"
        ) from error


def _evict(folder: Path, max_bytes: int) -> None:
    files = []
    for path in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # another worker of this host makes room too
            stat = path.stat()
            files.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in files)
    for used, size, path in sorted(files):
        if total <= max_bytes or time.time() - used < IN_USE_S:
            return
        path.unlink(missing_ok=True)
        total -= size
