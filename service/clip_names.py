"""Readable names for a batch's files, and links of these names in a store that is a folder."""

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from db.clips import batches, jobs
from db.models import ArtifactRow, Batch, Job
from db.session import Database
from pipeline.files.object_names import SUFFIXES, TEMPORARY, slug

LINKS = "by-name"
"""The folder of links in the store; no key of an object begins so."""
MOST_LINKED = 10_000
"""Larger batches get no links by themselves: reading all their jobs again would take long."""
_PAGE = 500


def clip_names(database: Database, batch_id: str) -> dict[str, str]:
    """Names of a batch's clips, without endings, by job: the same whichever of them are finished, and no two alike."""
    plain: dict[str, tuple[str, int]] = {}
    after = -1
    while True:
        with database.reading() as session:
            rows = batches.job_rows(session, batch_id, after_seq=after, limit=_PAGE)
            plain |= {job.id: (_plain(job), job.variant) for job in rows}
        if len(rows) < _PAGE:
            break
        after = rows[-1].seq
    uses = Counter(name for name, _ in plain.values())
    # A sweep over anything but the seed makes several clips of one line and seed.
    return {job_id: name if uses[name] == 1 else f"{name}-v{variant}" for job_id, (name, variant) in plain.items()}


def _plain(job: Job) -> str:
    return f"{job.line:06d}-{job.spec['seed']}-{slug(job.spec['prompt'])}"


def link_clips(root: Path, database: Database, batch: Batch) -> Path:
    """Link a batch's files under readable names, and return the folder of the links; what is there stays.

    A store that cannot be written to, or that has no links, keeps its files all the same.
    """
    folder = root / LINKS / f"{slug(batch.name)}-{batch.id}"
    names = clip_names(database, batch.id)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with database.reading() as session:
            ids = list(names)
            for start in range(0, len(ids), _PAGE):
                for job_id, files in jobs.artifacts(session, ids[start : start + _PAGE]).items():
                    _link(folder, root, names[job_id], files)
    return folder


def _link(folder: Path, root: Path, name: str, files: Mapping[str, ArtifactRow]) -> None:
    for kind, file in files.items():
        link = folder / f"{name}.{SUFFIXES[kind]}"
        target = os.path.relpath(root / file.key, folder)
        with contextlib.suppress(FileNotFoundError):
            if link.readlink() == Path(target):
                continue
        draft = link.with_name(f"{TEMPORARY}{os.getpid()}-{link.name}"[-200:])
        draft.unlink(missing_ok=True)
        draft.symlink_to(target)
        draft.replace(link)


def unlink_clips(root: Path, batch_id: str) -> None:
    """Remove the links of a batch."""
    for folder in (root / LINKS).glob(f"*-{batch_id}"):
        if not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)
