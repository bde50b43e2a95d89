"""Deletes unused objects, rows and local files; never an object that a row refers to.

An object goes when it is old, no row names it, and neither has changed when that is asked again right before. Any
number of sweeps may run at once.
"""

import itertools
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from db import browser_sessions
from db.clips import request_keys, retention
from db.events import HISTORY_REMOVED, MEDIA_REMOVED
from db.reading import handoffs
from db.session import Database
from pipeline.errors import RefusedError
from pipeline.handoff import Handoff
from pipeline.settings import Settings
from pipeline.settings.folder_trust import leads_out
from pipeline.storage.base import Storage, StoredObject

logger = logging.getLogger(__name__)

PREFIXES = ("media/", "checkpoints/", "states/", "work/", "inputs/", "vgen-check/")
"""The prefixes under which vgen puts objects. Whatever else lies in the store is somebody else's."""
KINDS = ("orphan", "checkpoint", "media", "history", "request_key", "session", "unfinished", "handoff", "model_build")
_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
_PAGE = 200
_SHOWN = 1_000
_BUILDS = "models/.*"
"""Folders of the cache in which a model is being built, until it gets its name."""
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Removed:
    """One thing that was removed, or would be."""

    kind: str
    name: str
    size: int


@dataclass(slots=True)
class Report:
    """The result of a sweep."""

    dry_run: bool
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    size: int = 0
    first: list[Removed] = field(default_factory=list)
    """The first thousand of them at most."""

    def add(self, kind: str, name: str, size: int = 0, *, number: int = 1) -> None:
        self.counts[kind] += number
        self.size += size
        if len(self.first) < _SHOWN:
            self.first.append(Removed(kind, name, size))


def sweep_once(database: Database, storage: Storage, settings: Settings, *, dry_run: bool = False) -> Report:
    """One sweep of everything that the settings say.

    Raises:
        ServiceUnavailableError, RetryableError, RefusedError: the database or the store cannot be used.
        RefusedError: code ``storage_denied``; one of this host's folders is a link that may be somebody else's.
    """
    if (problem := _linked_away(settings)) is not None:
        raise RefusedError(problem, code="storage_denied")
    report = Report(dry_run)
    _rows(database, storage, settings, report)
    _orphans(database, storage, settings, report)
    for name in storage.drop_unfinished(older_than_s=settings.sweep.orphan_age_h * 3600, dry_run=dry_run):
        report.add("unfinished", name)
    _this_host(database, settings, report)
    if not dry_run:
        with database.transaction() as session:
            retention.record_sweep(session, {kind: count for kind, count in report.counts.items() if count})
        logger.info("swept", extra={"counts": report.counts, "bytes": report.size})
    return report


def sweep_if_due(database: Database, make_storage: Callable[[], Storage], settings: Settings) -> Report | None:
    """The same, unless the last one is less than ``every_h`` ago: a second beat, or a late one, finds nothing to do."""
    with database.reading() as session:
        # A little less: the beat's own interval must not fall short of it by a moment.
        due = retention.is_due(session, every_ms=int(settings.sweep.every_h * _HOUR_MS * 0.9))
    if due and (problem := _linked_away(settings)) is not None:
        logger.warning("not swept", extra={"reason": problem})
        return None
    return sweep_once(database, make_storage(), settings) if due else None


def _linked_away(settings: Settings) -> str | None:
    """What stands against a sweep: a link leads out of a current folder that is not trusted, perhaps to files that were
    never vgen's."""
    for name, path in settings.folders.items():
        if _leads_out(path, settings):
            folder = settings.confined_to(path)
            return (
                f"nothing is swept: {name} {path} leads by a link out of {folder}, which is not trusted; "
                f"to allow it: VGEN_TRUSTED_FOLDERS={folder}"
            )
    return None


def _leads_out(path: Path, settings: Settings) -> bool:
    folder = settings.confined_to(path)
    return folder is not None and leads_out(path, folder)


def _rows(database: Database, storage: Storage, settings: Settings, report: Report) -> None:
    """Remove what retention and ended jobs make superfluous: the rows first, so that nothing names a lost object."""
    age_ms = int(settings.sweep.checkpoint_age_h * _HOUR_MS)
    while True:
        with database.transaction() as session:
            objects = retention.drop_checkpoints(session, older_than_ms=age_ms, dry_run=report.dry_run)
        _remove(database, storage, "checkpoint", objects, report)
        if not objects or report.dry_run:
            break
    keep, of_sessions = settings.retention.days, settings.retention.sessions_days
    if of_sessions is None:
        _media(database, storage, keep, None, report)
    else:
        _media(database, storage, keep, False, report)
        _media(database, storage, of_sessions, True, report)
        with database.transaction() as session:
            rows = retention.drop_empty_sessions(
                session, older_than_ms=int(of_sessions * _DAY_MS), dry_run=report.dry_run
            )
        if rows:
            report.add("history", f"{rows} sessions without a segment", number=rows)
    if settings.retention.history_days is not None:
        age_ms = int(settings.retention.history_days * _DAY_MS)
        for batch_id in _expired(database, age_ms, HISTORY_REMOVED):
            with database.transaction() as session:
                rows = retention.drop_history(session, batch_id, older_than_ms=age_ms, dry_run=report.dry_run)
            if rows:
                report.add("history", f"{rows} rows of batch {batch_id}", number=rows)
        with database.transaction() as session:
            rows = retention.drop_lone_events(session, older_than_ms=age_ms, dry_run=report.dry_run)
        if rows:
            report.add("history", f"{rows} events of no batch", number=rows)
    if not report.dry_run:
        with database.transaction() as session:
            number = request_keys.drop_old(session, older_than_ms=int(settings.serve.idempotency_h * _HOUR_MS))
        if number:
            report.add("request_key", f"{number} requests", number=number)
        with database.transaction() as session:
            number = browser_sessions.drop_expired(session)
        if number:
            report.add("session", f"{number} sessions of browsers", number=number)


def _media(database: Database, storage: Storage, days: float | None, of_sessions: bool | None, report: Report) -> None:
    """Remove the published files of batches whose time is over: those of sessions, all others, or (None) of both."""
    if days is None:
        return
    age_ms = int(days * _DAY_MS)
    for batch_id in _expired(database, age_ms, MEDIA_REMOVED, of_sessions):
        with database.transaction() as session:
            objects = retention.drop_media(session, batch_id, older_than_ms=age_ms, dry_run=report.dry_run)
        _remove(database, storage, "media", objects, report)


def _expired(database: Database, age_ms: int, kind: str, of_sessions: bool | None = None) -> list[str]:
    with database.reading() as session:
        expired = retention.expired_batches(session, older_than_ms=age_ms, kind=kind, of_sessions=of_sessions)
        return list(expired)


def _remove(
    database: Database, storage: Storage, kind: str, objects: Iterable[retention.Object], report: Report
) -> None:
    """Remove objects whose rows are gone; in a dry run the rows are still there, and only say what would go."""
    for page in _pages(objects):
        if not report.dry_run:
            with database.reading() as session:
                free = retention.unreferenced(session, [item.key for item in page])
            page = [item for item in page if item.key in free]  # noqa: PLW2901
            storage.delete_all([item.key for item in page])
        for item in page:
            report.add(kind, item.key, item.size)


def _orphans(database: Database, storage: Storage, settings: Settings, report: Report) -> None:
    """Old objects that no row points at: of attempts that lost their lease, of submissions that never came about."""
    oldest = _store_now(storage) - settings.sweep.orphan_age_h * 3600
    for prefix in PREFIXES:
        # An input or a state is put before the row that names it: nothing may come between check and removal.
        size = 1 if prefix in ("inputs/", "states/") else _PAGE
        for page in _pages((item for item in storage.list(prefix) if item.modified_at <= oldest), size):
            _remove_orphans(database, storage, page, oldest, settings, report)


def _remove_orphans(
    database: Database, storage: Storage, page: list[StoredObject], oldest: float, settings: Settings, report: Report
) -> None:
    free = _unreferenced(database, page, settings)
    if not report.dry_run:
        # Whoever puts it again meanwhile makes it fresh, and whoever records it has put it again before.
        ages = [(item, storage.stat(item.key)) for item in free]
        old = [item for item, now in ages if now is not None and now.modified_at <= oldest]
        free = _unreferenced(database, old, settings)
        storage.delete_all([item.key for item in free])
    for item in free:
        report.add("orphan", item.key, item.size)


def _unreferenced(database: Database, objects: Sequence[StoredObject], settings: Settings) -> list[StoredObject]:
    if not objects:
        return []
    days = settings.retention.inputs_days
    with database.reading() as session:
        free = retention.unreferenced(
            session, [item.key for item in objects], inputs_age_ms=None if days is None else int(days * _DAY_MS)
        )
    return [item for item in objects if item.key in free]


def _store_now(storage: Storage) -> float:
    """The store's clock, in seconds since 1970: a host whose own is hours off must not take fresh objects for old."""
    key = f"vgen-check/{secrets.token_hex(8)}"
    now = storage.put_bytes(key, b"now", content_type="text/plain").modified_at
    storage.delete(key)
    return now + 1.0  # some stores tell whole seconds only


def _this_host(database: Database, settings: Settings, report: Report) -> None:
    """Remove what killed processes left in this host's hand-off and cache folders."""
    older_than_s = settings.sweep.orphan_age_h * 3600
    if settings.effective_handoff_dir.is_dir():
        handoff = Handoff.open(settings.effective_handoff_dir, settings.handoff_bytes)
        for path in _old(handoff.path.glob("*.*"), older_than_s):
            job_id, *numbers = path.name.split(".")[:4]
            with database.reading() as session:
                live = handoffs.live_stems(session, [job_id])
            if len(numbers) == 3 and ".".join((job_id, *numbers)) not in live:
                _unlink("handoff", path, report)
    builds = (path for path in settings.effective_cache_dir.glob(_BUILDS) if not _leads_out(path.parent, settings))
    for path in _old(builds, older_than_s):
        _unlink("model_build", path, report)


def _old(paths: Iterable[Path], older_than_s: float) -> Iterator[Path]:
    for path in sorted(paths):
        newest = max((inner.stat().st_mtime for inner in (path, *path.rglob("*")) if inner.exists()), default=0.0)
        if time.time() - newest >= older_than_s:
            yield path


def _unlink(kind: str, path: Path, report: Report) -> None:
    size = sum(inner.stat().st_size for inner in (path, *path.rglob("*")) if inner.is_file())
    if not report.dry_run:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    report.add(kind, str(path), size)


def _pages(items: Iterable[Value], size: int = _PAGE) -> Iterator[list[Value]]:
    rest = iter(items)
    while page := list(itertools.islice(rest, size)):
        yield page
