"""Fetch the next clip's inputs while the one before is made. A hint: who makes the clip looks for them and can do
without."""

import contextlib
import os
import shutil
import time
from pathlib import Path

from pipeline.files.digests import file_sha256
from pipeline.files.drafts import draft_of
from pipeline.settings import Settings
from pipeline.spec import InputRef, JobSpec
from pipeline.stages.lora_cache import fetch_lora
from pipeline.storage.base import Storage

KEEP_S = 900.0
"""A file that nobody took for this long goes when another is fetched: the hint was wrong."""


def prefetch_inputs(spec: JobSpec, storage: Storage, settings: Settings) -> None:
    """Bring a clip's inputs and LoRAs to this host. Raises what ``Storage`` does, and OSError."""
    folder = _folder(settings)
    for lora in spec.loras:
        fetch_lora(lora, storage, settings)
    loras = {lora.file.sha256 for lora in spec.loras}
    refs = [ref for ref in spec.input_refs if ref.sha256 not in loras]
    if not refs:
        return
    folder.mkdir(parents=True, exist_ok=True)
    _remove_old(folder)
    for ref in refs:
        path = folder / ref.sha256
        try:
            os.utime(path)
        except FileNotFoundError:
            with draft_of(path) as draft:
                storage.download(ref.key, draft)


def take_prefetched(ref: InputRef, target: Path, settings: Settings) -> bool:
    """Return whether the input was fetched ahead, and is what was stored; then a copy of it is at ``target``."""
    path = _folder(settings) / ref.sha256
    try:
        shutil.copyfile(path, target)
    except FileNotFoundError:
        return False
    if file_sha256(target) != ref.sha256:
        path.unlink(missing_ok=True)
        return False
    return True


def _folder(settings: Settings) -> Path:
    return settings.effective_cache_dir / "ahead"


def _remove_old(folder: Path) -> None:
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another worker of this host looks after the folder too
            if time.time() - path.stat().st_mtime > KEEP_S:
                path.unlink()
