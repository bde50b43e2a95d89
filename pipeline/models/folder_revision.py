"""The revision of a model in a user's folder: a digest of its files, in place of a commit.

A file is read once as long as its size, time and inode stay the same: what was found is kept in the cache folder.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from pipeline.files.digests import file_sha256
from pipeline.files.drafts import draft_of

_KNOWN = "models/folder-digests.json"


def folder_revision(folder: Path, cache_dir: Path) -> str:
    """``files-`` and 40 hex digits of sha256 over the pipeline's files: equal content gives equal revisions anywhere.

    Raises OSError and ValueError: the index or a file cannot be read.

    The files are the index and those of the components that it names, so what a training run leaves beside them does
    not count. Time is that of reading the files, the first time.
    """
    cached = _read_known(cache_dir)
    digests: dict[str, list[object]] = {}
    digest = hashlib.sha256()
    for path in _files(folder):
        stat = path.stat()
        state: list[object] = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        before = cached.get(str(path))
        content = str(before[3]) if before is not None and before[:3] == state else file_sha256(path)
        digests[str(path)] = [*state, content]
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    if any(cached.get(path) != entry for path, entry in digests.items()):
        _write_known(cache_dir, {**cached, **digests})
    return f"files-{digest.hexdigest()[:40]}"


def _files(folder: Path) -> Iterator[Path]:
    index = folder / "model_index.json"
    yield index
    components = json.loads(index.read_text("utf-8"))
    if not isinstance(components, dict):
        raise ValueError(f"{index} is not a JSON object")
    for name in sorted(name for name, value in components.items() if isinstance(value, list)):
        yield from sorted(path for path in (folder / name).rglob("*") if path.is_file())


def _read_known(cache_dir: Path) -> dict[str, list[object]]:
    with contextlib.suppress(OSError, ValueError):  # without it the files are read again
        cached = json.loads((cache_dir / _KNOWN).read_text("utf-8"))
        if isinstance(cached, dict):
            return {str(k): v for k, v in cached.items() if isinstance(v, list) and len(v) == 4}
    return {}


def _write_known(cache_dir: Path, digests: dict[str, list[object]]) -> None:
    target = cache_dir / _KNOWN
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        with draft_of(target) as draft:
            draft.write_text(json.dumps(digests, indent=1), "utf-8")
