"""The forecast of a batch, in words: for `status`, `submit` and `watch`."""

import time

from cli import output
from cli.batches.follow import Snapshot
from db.clips import batches
from db.reading.estimates import Halt
from db.session import Database
from pipeline.settings import Settings
from service.forecast import of_batch
from service.views.batches import BatchView, OutlookView

_POLL_S = 10.0


def sentences(batch: BatchView, outlook: OutlookView) -> list[str]:
    """Return what a person should know, the most urgent first."""
    texts = []
    if outlook.stopped is not None:
        texts.append(f"stopped: {outlook.stopped}; {_mend(outlook.stopped, batch)}")
    texts += [item.reason for item in outlook.stuck]
    if batch.deadline_at is not None and not batch.finished:
        texts.append(_deadline(batch.deadline_at, outlook))
    return texts


def _mend(halt: str, batch: BatchView) -> str:
    if halt == Halt.BUDGET:
        return f"`vgen budget {batch.id} --max-gpu-hours N` or `--max-cost N` raises it"
    return f"`vgen resume {'--all' if halt == Halt.EVERYTHING else batch.id}` lets it go on"


def _deadline(deadline_at: str, outlook: OutlookView) -> str:
    if outlook.expected_at is None and outlook.deadline_at_risk:
        return f"deadline {deadline_at}: it has passed"
    if outlook.expected_at is None:
        return f"deadline {deadline_at}: no estimate yet: {outlook.no_estimate}"
    if outlook.deadline_at_risk:
        return f"deadline {deadline_at} at risk: done about {outlook.expected_at} as it goes now"
    return f"deadline {deadline_at}: done about {outlook.expected_at} as it goes now"


class News:
    """Prints each urgent notice once, while a batch is watched."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._shown: set[str] = set()
        self._polled_at: float | None = None

    def report(self, snapshot: Snapshot) -> Snapshot:
        """Print new notices, at most every ten seconds, and return the snapshot."""
        if self._polled_at is None or time.monotonic() - self._polled_at >= _POLL_S:
            self._polled_at = time.monotonic()
            urgent = self._urgent(snapshot)
            for text in urgent:
                if text not in self._shown:
                    output.notice(text)
            self._shown = set(urgent)
        return snapshot

    def _urgent(self, snapshot: Snapshot) -> list[str]:
        texts = []
        with self._database.reading() as session:
            for view in snapshot.batches:
                if not view.finished:
                    texts += self._of(of_batch(session, batches.get(session, view.id), self._settings), view)
        return texts

    def _of(self, outlook: OutlookView, batch: BatchView) -> list[str]:
        texts = [f"batch {batch.id}: {item.reason}" for item in outlook.stuck]
        if outlook.deadline_at_risk:
            texts.append(f"batch {batch.id}: its deadline {batch.deadline_at} is at risk")
        return texts
