"""Works in solo mode: holds the home's lock and works, or follows the process that holds it and takes over."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from cli import output
from cli.batches import gallery, watch
from cli.batches.follow import Display, Snapshot, display, follow, snapshot_of
from cli.batches.forecast import News
from cli.interrupt import Interrupt
from db.reading import history, remaining
from db.scheduling.capacity import gpu_capacity
from db.session import Database
from pipeline.settings import Settings
from service.exit_codes import ExitCode
from service.submission import unserved

if TYPE_CHECKING:
    from tasks.hosts.home_lock import HomeLock

_STUCK_S = 10.0
"""The seconds with nothing running after which it is checked whether anything here can run what waits."""


_FOLLOWING = "no longer following; the other vgen process continues the work"
_WORKING = "stopping: what runs is given back; again to stop at once"


def off(database: Database, settings: Settings, wanted: Sequence[str] = (), *, json: bool = False) -> int:
    """Work off all that waits; the worst exit code of the batches that are wanted, or of all when none is named."""
    from tasks.hosts.home_lock import HomeLock

    batch_ids = _unfinished(database)
    if not wanted and not batch_ids:
        output.line("nothing to do: every batch is finished")
        return ExitCode.DONE
    followed = _Followed(database, wanted or batch_ids)
    lock = HomeLock(settings.home)
    with Interrupt(_FOLLOWING) as interrupt:
        holding = lock.acquire()
        try:
            if not holding:
                output.notice(f"another vgen works in {settings.home.absolute()}: following it")
                holding = _follow_until_free(followed, interrupt, lock)
            if holding and not interrupt.stopped:
                interrupt.message = _WORKING
                _work(database, settings, followed, interrupt)
        finally:
            if holding:
                lock.release()
        if interrupt.stopped and interrupt.message == _FOLLOWING:
            return ExitCode.INTERRUPTED
        if interrupt.stopped:
            output.notice("stopped; `vgen run` resumes the work")
            return ExitCode.INTERRUPTED
    for reason in followed.poll().stopped:
        output.notice(f"no longer waiting: {reason}")
    shown = wanted if json else followed.ids
    codes = [watch.show_ended(database, settings, batch_id, json=json) for batch_id in shown]
    if not json:
        gallery.show(database, settings, followed.ids)
    return max(codes, default=ExitCode.DONE)


def _unfinished(database: Database) -> list[str]:
    with database.reading() as session:
        return list(remaining.unfinished(session))


class _Followed:
    """The batches on the display: those asked for, and while we work, those that others store meanwhile."""

    def __init__(self, database: Database, ids: Sequence[str]) -> None:
        self._database = database
        self.ids = list(ids)

    def poll(self) -> Snapshot:
        return snapshot_of(self._database, self.ids)

    def poll_all(self) -> Snapshot:
        self.ids += [new for new in _unfinished(self._database) if new not in self.ids]
        return self.poll()


def _follow_until_free(followed: _Followed, interrupt: Interrupt, lock: HomeLock) -> bool:
    """Follow until the batches end or the lock comes free; whether we hold it now."""
    locked = False

    def ended(snapshot: Snapshot) -> bool:
        nonlocal locked
        if snapshot.finished or snapshot.needs_people:
            return True
        locked = lock.acquire()
        return locked

    with display() as screen:
        follow(followed.poll, screen, until=ended, wait=interrupt.wait)
    if locked:
        output.notice("the other process has ended: this one continues the work")
    return locked


def _work(database: Database, settings: Settings, followed: _Followed, interrupt: Interrupt) -> None:
    from tasks.hosts.solo import SoloLine

    # The display ends before the workers do, so that what they say of their end is not painted over.
    with ExitStack() as stack:
        line = stack.enter_context(SoloLine(settings, database))
        stuck = _Stuck(database, settings)
        news = News(database, settings, start_s=_STUCK_S)
        with display() as screen:
            _follow_line(followed, screen, interrupt, line, stuck, news)
        if line.error is not None:
            raise line.error
        for reason in stuck.reasons:
            output.notice(f"waiting for what is not here: {reason}")


def _follow_line(
    followed: _Followed, screen: Display, interrupt: Interrupt, line: object, stuck: _Stuck, news: News
) -> None:
    def ended(snapshot: Snapshot) -> bool:
        failed = getattr(line, "error", None) is not None
        return failed or snapshot.finished or snapshot.needs_people or stuck.check(snapshot)

    follow(lambda: news.report(followed.poll_all()), screen, until=ended, wait=interrupt.wait)


class _Stuck:
    """Notices when all that is left needs a GPU type that this machine does not have."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._quiet_since = time.monotonic()
        self._ended = -1
        self.reasons: list[str] = []

    def check(self, snapshot: Snapshot) -> bool:
        """Return whether nothing that is left can ever run here; ``reasons`` says why."""
        if snapshot.running or snapshot.ended != self._ended:
            self._quiet_since, self._ended = time.monotonic(), snapshot.ended
        if time.monotonic() - self._quiet_since < _STUCK_S:
            return False
        self._quiet_since = time.monotonic()

        with self._database.reading() as session:
            lines = gpu_capacity(session)
            needs = history.waiting_for_gpu(session, [batch.id for batch in snapshot.batches])
        if not lines or needs is None:
            return False  # the GPU worker is still loading, or another stage has yet to run
        reasons = unserved(needs, lines, self._settings)
        if len(reasons) == len(needs):
            self.reasons = reasons
        return bool(self.reasons)
